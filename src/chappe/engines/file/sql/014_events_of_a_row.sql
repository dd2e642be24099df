-- Events that were published together and follow one another are one row: the routing key, the id and the size of each; null for a row of one.
-- Their sealed envelopes stand one behind the other, and `seq` is the last one's.
alter table archive add column events text;
