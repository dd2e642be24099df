-- Messages that have failed and wait for another attempt (flag 4), wherever they wait.
create index delayed_failed on delayed (id) where flags & 4;
create index ready_failed on ready (id) where flags & 4;
