//! The PostgreSQL side of Griot: append to the change log, read it by cursor, capture row changes by rule.
