//! Every promise against real servers, in one binary so that the tests share one set of them.

mod connections;
mod continuity;
mod fence;
