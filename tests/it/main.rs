//! Every test against real servers, in one binary so that they share one set.
