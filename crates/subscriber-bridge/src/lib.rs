//! Holds the browsers' sockets and fans Redis out to them.
