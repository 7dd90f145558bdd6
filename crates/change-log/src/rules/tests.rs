//! What rules accept, and what they make of rows.

mod parsing;
mod rendering;
