//! HTTP API and command line by which backends in any language publish.
