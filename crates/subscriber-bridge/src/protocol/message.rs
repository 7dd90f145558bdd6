//! What stands on the wire: one set of types for both encodings of the Centrifugal client protocol.
//!
//! The numbers are the protocol's field numbers, for protobuf; the names are its names, for JSON. Rules of the JSON: defaults
//! are left out except where clients rely on them, 64-bit integers are numbers, data is embedded as it is.

mod push;
mod reply;
mod request;

pub use self::push::*;
pub use self::reply::*;
pub use self::request::*;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}
