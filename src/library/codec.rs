//! The bytes of what libraries sign: numbers in big-endian order, texts and lists behind their length. Pure.
//!
//! There is one encoding of each value, and a reader that finds anything else refuses it: what was signed is what is
//! meant. Nothing is allocated for a length that the input does not have.

#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum CodecError {
    #[error("it is cut off")]
    Truncated,
    #[error("it is longer than it says")]
    TrailingBytes,
    #[error("its {0} makes no sense")]
    Value(&'static str),
}

#[derive(Debug, Default)]
pub(super) struct RowWriter(pub(super) Vec<u8>);

impl RowWriter {
    pub(super) fn raw(&mut self, bytes: &[u8]) -> &mut Self {
        self.0.extend_from_slice(bytes);
        self
    }

    pub(super) fn u8(&mut self, value: u8) -> &mut Self {
        self.raw(&[value])
    }

    pub(super) fn u32(&mut self, value: u32) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    pub(super) fn u64(&mut self, value: u64) -> &mut Self {
        self.raw(&value.to_be_bytes())
    }

    /// How many things follow. Whatever is encoded has far fewer than 2^32.
    pub(super) fn count(&mut self, count: usize) -> &mut Self {
        self.u32(u32::try_from(count).unwrap_or(u32::MAX))
    }

    pub(super) fn bytes(&mut self, bytes: &[u8]) -> &mut Self {
        self.count(bytes.len()).raw(bytes)
    }

    pub(super) fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    pub(super) fn optional_text(&mut self, text: Option<&str>) -> &mut Self {
        match text {
            Some(text) => self.u8(1).text(text),
            None => self.u8(0),
        }
    }
}

/// Reads what a [`RowWriter`] wrote.
#[derive(Clone, Debug)]
pub(super) struct RowReader<'a>(&'a [u8]);

impl<'a> RowReader<'a> {
    pub(super) fn new(bytes: &'a [u8]) -> Self {
        Self(bytes)
    }

    pub(super) fn raw(&mut self, length: usize) -> Result<&'a [u8], CodecError> {
        let (head, rest) = self.0.split_at_checked(length).ok_or(CodecError::Truncated)?;
        self.0 = rest;
        Ok(head)
    }

    pub(super) fn array<const N: usize>(&mut self) -> Result<[u8; N], CodecError> {
        let mut array = [0; N];
        array.copy_from_slice(self.raw(N)?);
        Ok(array)
    }

    pub(super) fn u8(&mut self) -> Result<u8, CodecError> {
        Ok(self.array::<1>()?[0])
    }

    pub(super) fn u32(&mut self) -> Result<u32, CodecError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    pub(super) fn u64(&mut self) -> Result<u64, CodecError> {
        Ok(u64::from_be_bytes(self.array()?))
    }

    /// How many things follow, at most `max`.
    pub(super) fn count(&mut self, max: usize, what: &'static str) -> Result<usize, CodecError> {
        let count = usize::try_from(self.u32()?).unwrap_or(usize::MAX);
        if count > max { Err(CodecError::Value(what)) } else { Ok(count) }
    }

    pub(super) fn bytes(&mut self, max: usize, what: &'static str) -> Result<&'a [u8], CodecError> {
        let length = self.count(max, what)?;
        self.raw(length)
    }

    pub(super) fn text(&mut self, max: usize, what: &'static str) -> Result<String, CodecError> {
        let bytes = self.bytes(max, what)?;
        std::str::from_utf8(bytes).map(str::to_owned).map_err(|_| CodecError::Value(what))
    }

    pub(super) fn optional_text(
        &mut self,
        max: usize,
        what: &'static str,
    ) -> Result<Option<String>, CodecError> {
        match self.u8()? {
            0 => Ok(None),
            1 => self.text(max, what).map(Some),
            _ => Err(CodecError::Value(what)),
        }
    }

    pub(super) fn end(self) -> Result<(), CodecError> {
        if self.0.is_empty() { Ok(()) } else { Err(CodecError::TrailingBytes) }
    }
}
