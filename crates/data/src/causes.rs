//! An error and its causes in one line.

/// An error's message and those of its causes, joined by ": ". A message that the text already contains is left out.
///
/// ```
/// use wrn_sam_data::{Dataset, Variant, with_causes};
///
/// let error = Dataset::open(Variant::Cifar100, "no/such/folder").unwrap_err();
/// assert!(with_causes(&error).starts_with("no CIFAR-100 in no/such/folder: there is no such file or folder"));
/// ```
pub fn with_causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        let message = error.to_string();
        if !text.contains(&message) {
            text = format!("{text}: {message}");
        }
        cause = error.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;
    use crate::Error;

    #[test]
    fn causes_are_joined_and_not_repeated() {
        let cause = || io::Error::other("no room");
        let said = Error::Io { path: "data".into(), action: "read", source: cause() };
        assert_eq!(with_causes(&said), "cannot read data: no room");

        #[derive(Debug, thiserror::Error)]
        #[error("it failed")]
        struct Silent(#[source] Error);
        let silent = Silent(Error::Io { path: "data".into(), action: "read", source: cause() });
        assert_eq!(with_causes(&silent), "it failed: cannot read data: no room");
    }
}
