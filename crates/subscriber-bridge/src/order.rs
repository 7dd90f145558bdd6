//! What somebody who does not hold a connection wants of it.

use bytes::Bytes;

use crate::codes::Disconnect;

/// Done by the connection's own task, in the order in which it was asked.
#[derive(Debug)]
pub enum Order {
    /// Commands that the client sent by another way than the connection itself.
    Commands(Bytes),
    /// Close.
    Disconnect(Disconnect),
}
