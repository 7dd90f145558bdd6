//! Applies the change log to one region: invalidate, then publish, then move the cursor.
