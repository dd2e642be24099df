-- The messages of batches, whose ids are those of their batches, a dot and a number: batches are found by the last of each.
create index tracked_by_batch on tracked (message_id) where substr(message_id, 37, 1) = '.';
