//! Every promise against real servers, in one binary so that the tests share one set of them.

mod change_log;
mod connections;
mod continuity;
mod fence;
mod invalidation;
mod right_person;
