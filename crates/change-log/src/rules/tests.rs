//! What rules accept, and what they make of rows.

mod hearing;
mod parsing;
mod rendering;
