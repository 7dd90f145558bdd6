//! The measuring instrument: a load client that is cheap itself, the floor server, and the rows that compare Griot with
//! the floor and with what users would pick instead.

pub mod calculator;
pub mod emitter;
pub mod floor;
pub mod load;
pub mod process;
pub mod report;
pub mod results;
pub mod rows;
pub mod subjects;
pub mod websocket;
