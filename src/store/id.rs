//! Which store is asked.

use std::fmt;
use std::str::FromStr;

use data_encoding::HEXLOWER;

/// Names a store for as long as its database lives: random, made with it. Two stores that were under one address one after
/// the other give the same numbers to different changes; this tells them apart.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StoreId(pub [u8; 16]);

impl fmt::Display for StoreId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&HEXLOWER.encode(&self.0))
    }
}

/// Something that is no store's id.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not the id of a store: 32 lower-case hexadecimal digits")]
pub struct StoreIdError;

impl FromStr for StoreId {
    type Err = StoreIdError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let bytes = HEXLOWER.decode(text.as_bytes()).map_err(|_| StoreIdError)?;
        Ok(Self(bytes.try_into().map_err(|_| StoreIdError)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_read_as_it_is_written() {
        let id = StoreId([0xa7; 16]);
        assert_eq!(id.to_string().parse(), Ok(id));
        for bad in ["", "a7", "A7A7A7A7A7A7A7A7A7A7A7A7A7A7A7A7", "a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7a7"] {
            assert_eq!(bad.parse::<StoreId>(), Err(StoreIdError), "{bad}");
        }
    }
}
