//! The wire format of Protocol Buffers (<https://protobuf.dev/programming-guides/encoding/>), as much of it as ONNX takes.

/// A message that grows by its fields. A field is written where it is added, so equal calls give equal bytes.
#[derive(Default)]
pub(super) struct Message(Vec<u8>);

/// How a field's value is written.
const VARINT: u64 = 0;
const LENGTH_DELIMITED: u64 = 2;
const FIXED32: u64 = 5;

impl Message {
    /// With an integer.
    pub(super) fn with_integer(mut self, field: u64, value: i64) -> Self {
        self.varint(field << 3 | VARINT);
        self.varint(value.cast_unsigned());
        self
    }

    /// With an `f32`.
    pub(super) fn with_float(mut self, field: u64, value: f32) -> Self {
        self.varint(field << 3 | FIXED32);
        self.0.extend(value.to_le_bytes());
        self
    }

    /// With bytes.
    pub(super) fn with_bytes(mut self, field: u64, value: &[u8]) -> Self {
        self.varint(field << 3 | LENGTH_DELIMITED);
        self.varint(value.len() as u64);
        self.0.extend_from_slice(value);
        self
    }

    /// With a text.
    pub(super) fn with_text(self, field: u64, value: &str) -> Self {
        self.with_bytes(field, value.as_bytes())
    }

    /// With a message.
    pub(super) fn with(self, field: u64, value: Self) -> Self {
        self.with_bytes(field, &value.0)
    }

    /// With one value of a field for each of `values`, added by `add`.
    pub(super) fn with_all<T>(
        self,
        values: impl IntoIterator<Item = T>,
        add: impl Fn(Self, T) -> Self,
    ) -> Self {
        values.into_iter().fold(self, add)
    }

    /// The bytes.
    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }

    /// Seven bits to a byte, the lowest first; the highest bit says that more follow.
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push(value as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fields_are_those_of_the_specification() {
        let bytes = |message: Message| message.into_bytes();
        assert_eq!(bytes(Message::default().with_integer(1, 150)), [0x08, 0x96, 0x01]);
        assert_eq!(bytes(Message::default().with_text(2, "testing")), b"\x12\x07testing");
        let inner = Message::default().with_integer(1, 150);
        assert_eq!(bytes(Message::default().with(3, inner)), [0x1a, 0x03, 0x08, 0x96, 0x01]);
        assert_eq!(bytes(Message::default().with_float(2, 1.0)), [0x15, 0, 0, 0x80, 0x3f]);
        let minus = bytes(Message::default().with_integer(1, -2));
        assert_eq!(minus, [0x08, 0xfe, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x01]);
        let several = Message::default().with_all([3, 270], |message, value| message.with_integer(16, value));
        assert_eq!(bytes(several), [0x80, 0x01, 0x03, 0x80, 0x01, 0x8e, 0x02]);
    }
}
