//! The Python version's files, written opcode by opcode as Python 2 did.

/// What a batch holds, to be changed by tests before it is written.
pub struct Batch {
    /// The module of `_reconstruct`: numpy 1's unless changed.
    pub module: &'static str,
    pub dtype: &'static str,
    /// Whether the array is said to be in column-major (Fortran) order.
    pub fortran: bool,
    pub shape: [u32; 2],
    pub data: Vec<u8>,
    /// Keys of lists of labels, and those.
    pub labels: Vec<(&'static str, Vec<u8>)>,
}

impl Batch {
    pub fn cifar100(data: Vec<u8>, fine: Vec<u8>, coarse: Vec<u8>) -> Self {
        let shape = [fine.len() as u32, 3072];
        let labels = vec![("fine_labels", fine), ("coarse_labels", coarse)];
        Self { module: "numpy.core.multiarray", dtype: "u1", fortran: false, shape, data, labels }
    }

    pub fn cifar10(data: Vec<u8>, labels: Vec<u8>) -> Self {
        let shape = [labels.len() as u32, 3072];
        Self {
            module: "numpy.core.multiarray",
            dtype: "u1",
            fortran: false,
            shape,
            data,
            labels: vec![("labels", labels)],
        }
    }

    pub fn pickle(&self) -> Vec<u8> {
        let mut out = Writer::new();
        out.open_dict();
        out.string(b"batch_label");
        out.string(b"training batch 1 of 1");
        for (key, labels) in &self.labels {
            out.string(key.as_bytes());
            out.list(labels, |out, label| out.bytes.extend([b'K', *label]));
        }
        out.string(b"data");
        out.array(self);
        out.close_dict()
    }
}

/// The pickle of a dictionary of lists of names.
pub fn names(lists: &[(&str, &[&str])]) -> Vec<u8> {
    let mut out = Writer::new();
    out.open_dict();
    for (key, names) in lists {
        out.string(key.as_bytes());
        out.list(names, |out, name| out.string(name.as_bytes()));
    }
    out.close_dict()
}

struct Writer {
    bytes: Vec<u8>,
    memo: u32,
}

impl Writer {
    fn new() -> Self {
        Self { bytes: b"\x80\x02".to_vec(), memo: 1 }
    }

    fn add(&mut self, bytes: &[u8]) {
        self.bytes.extend(bytes);
    }

    fn memoize(&mut self) {
        match u8::try_from(self.memo) {
            Ok(key) => self.add(&[b'q', key]),
            Err(_) => {
                let key = self.memo.to_le_bytes();
                self.add(b"r");
                self.add(&key);
            }
        }
        self.memo += 1;
    }

    fn open_dict(&mut self) {
        self.add(b"}");
        self.memoize();
        self.add(b"(");
    }

    fn close_dict(mut self) -> Vec<u8> {
        self.add(b"u.");
        self.bytes
    }

    fn string(&mut self, string: &[u8]) {
        match u8::try_from(string.len()) {
            Ok(length) => self.add(&[b'U', length]),
            Err(_) => {
                self.add(b"T");
                self.add(&(string.len() as u32).to_le_bytes());
            }
        }
        self.add(string);
        self.memoize();
    }

    fn list<T>(&mut self, items: &[T], mut item: impl FnMut(&mut Self, &T)) {
        self.add(b"]");
        self.memoize();
        for batch in items.chunks(1000) {
            self.add(b"(");
            batch.iter().for_each(|one| item(self, one));
            self.add(b"e");
        }
    }

    fn int(&mut self, int: u32) {
        match u16::try_from(int) {
            Ok(int) => {
                self.add(b"M");
                self.add(&int.to_le_bytes());
            }
            Err(_) => {
                self.add(b"J");
                self.add(&int.to_le_bytes());
            }
        }
    }

    fn array(&mut self, batch: &Batch) {
        self.add(format!("c{}\n_reconstruct\n", batch.module).as_bytes());
        self.memoize();
        self.add(b"cnumpy\nndarray\n");
        self.memoize();
        self.add(b"K\x00\x85");
        self.string(b"b");
        self.add(b"\x87R");
        self.memoize();
        self.add(b"(K\x01");
        batch.shape.iter().for_each(|dim| self.int(*dim));
        self.add(b"\x86cnumpy\ndtype\n");
        self.memoize();
        self.string(batch.dtype.as_bytes());
        self.add(b"K\x00K\x01\x87R");
        self.memoize();
        self.add(b"(K\x03");
        self.string(b"|");
        self.add(b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\x00tb");
        self.add(if batch.fortran { b"\x88" } else { b"\x89" });
        self.string(&batch.data);
        self.add(b"tb");
    }
}
