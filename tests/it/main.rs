//! Every promise against real servers, in one binary so that the tests share one set of them.

mod api;
mod change_log;
mod configuration;
mod connections;
mod continuity;
mod demo;
mod fence;
mod full_redis;
mod hostile;
mod intake;
mod invalidation;
mod leader;
mod listeners;
mod readme;
mod recovery;
mod right_person;
mod storm;
mod trials;
