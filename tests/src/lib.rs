//! The harness that starts real servers for the tests and the demo.
