-- How each schedule was defined when its scheduler last started, and by which application; null when it was left out since.
create table schedule_definition (name text primary key, application text not null, definition text);
