//! A server on this machine that says what a test wants.

use std::io::Read;
use std::net::{TcpListener, TcpStream};
use std::thread;

/// Deals with a request, of which it gets the head in small letters.
pub type Answer = Box<dyn FnOnce(&str, &mut TcpStream) + Send>;

/// The address of a server that lets each of `answers` deal with one request.
pub fn serve_each(answers: Vec<Answer>) -> String {
    let (listener, url) = listen();
    thread::spawn(move || answers.into_iter().for_each(|answer| self::answer(&listener, answer)));
    url
}

/// The address of a server that lets `answer` deal with every request.
pub fn serve_all(mut answer: impl FnMut(&str, &mut TcpStream) + Send + 'static) -> String {
    let (listener, url) = listen();
    thread::spawn(move || {
        loop {
            self::answer(&listener, &mut answer);
        }
    });
    url
}

fn listen() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("http://{}", listener.local_addr().unwrap());
    (listener, url)
}

/// Lets `answer` deal with the next request.
pub fn answer(listener: &TcpListener, answer: impl FnOnce(&str, &mut TcpStream)) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut head = Vec::new();
    while !head.ends_with(b"\r\n\r\n") {
        let mut byte = [0];
        if stream.read(&mut byte).unwrap_or(0) == 0 {
            return;
        }
        head.push(byte[0]);
    }
    answer(&String::from_utf8(head).unwrap().to_lowercase(), &mut stream);
}
