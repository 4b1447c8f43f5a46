-- The tables of the writers of scripts/torture. Each step is one transaction and ends with a row of `marker` that has the number
-- of its records with a value, so an incomplete transaction is found without the database. The key columns have different names
-- because a tombstone has nothing else that identifies its table.

CREATE TABLE account (account_id bigint PRIMARY KEY, account int NOT NULL, version int NOT NULL, balance bigint NOT NULL);
CREATE INDEX ON account (account);
CREATE TABLE journal (
    journal_seq bigserial PRIMARY KEY, kind text NOT NULL, account_id bigint NOT NULL, version int NOT NULL);
CREATE TABLE bulk (bulk_id bigint PRIMARY KEY, batch int NOT NULL);
CREATE TABLE marker (marker_id bigserial PRIMARY KEY, records int NOT NULL);
CREATE TABLE page (page_id bigserial PRIMARY KEY);
CREATE TABLE document (document_id bigserial PRIMARY KEY, content bytea NOT NULL);
ALTER TABLE document ALTER content SET STORAGE EXTERNAL;
CREATE TABLE fleeting (fleeting_id bigserial PRIMARY KEY);
CREATE PUBLICATION torture FOR TABLE account, journal, bulk, marker, page, document, fleeting;

-- Their first rows exist before the slot: only snapshots send them, one snapshot for each table. An id is never used again.
CREATE SEQUENCE stock_ids START 20001;
DO $$
BEGIN
    FOR i IN 1..6 LOOP
        EXECUTE format('CREATE TABLE stock_%s (stock_id bigint PRIMARY KEY, version bigint NOT NULL, note text)', i);
        EXECUTE format('INSERT INTO stock_%s SELECT %s * 1000000000::bigint + n, 1, repeat(''note'', 100)
            FROM generate_series(1, 20000) n', i, i);
        EXECUTE format('ALTER PUBLICATION torture ADD TABLE stock_%s', i);
    END LOOP;
END $$;

-- Not published: the changes of the accounts, and a table whose changes only move the WAL forward.
CREATE TABLE page_ever (page_id bigint PRIMARY KEY);
CREATE TABLE truncated (truncated_id bigserial PRIMARY KEY);
CREATE TABLE document_made (document_id bigint PRIMARY KEY, is_refused bool NOT NULL);
CREATE TABLE said (said_id bigint PRIMARY KEY, is_transactional bool NOT NULL);
CREATE SEQUENCE saying;
CREATE TABLE noise (noise text);

-- Not published: accounts that are currently closed, and the batches of bulk.
CREATE TABLE closed (account int PRIMARY KEY, account_id bigint NOT NULL, version int NOT NULL);
CREATE SEQUENCE batch;

-- The first transaction: the accounts, each with the same balance.
CREATE FUNCTION load(accounts int, balance bigint) RETURNS void LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO account SELECT a * 1000000::bigint, a, 0, load.balance FROM generate_series(1, accounts) a;
    INSERT INTO journal (kind, account_id, version) SELECT 'open', account_id, version FROM account ORDER BY 2;
    INSERT INTO marker (records) VALUES (2 * accounts + 1);
END $$;

-- One to four actions on random accounts. Locks are taken in random order, so a deadlock sometimes aborts a step.
CREATE FUNCTION step(accounts int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    a account;
    b account;
    c closed;
    first int;
    second int;
    amount bigint;
    dice float;
    written int := 0;
BEGIN
    FOR i IN 1..1 + floor(random() * 4)::int LOOP
        dice := random();
        first := 1 + floor(random() * accounts)::int;
        second := 1 + floor(random() * accounts)::int;
        CONTINUE WHEN first = second;
        SELECT * INTO a FROM account WHERE account.account = first FOR UPDATE;
        SELECT * INTO b FROM account WHERE account.account = second FOR UPDATE;
        CONTINUE WHEN a.account IS NULL OR b.account IS NULL;
        IF dice < 0.80 THEN -- a transfer
            amount := 1 + floor(random() * 100)::bigint;
            UPDATE account SET balance = balance - amount, version = version + 1 WHERE account_id = a.account_id;
            UPDATE account SET balance = balance + amount, version = version + 1 WHERE account_id = b.account_id;
            INSERT INTO journal (kind, account_id, version)
                VALUES ('update', a.account_id, a.version + 1), ('update', b.account_id, b.version + 1);
            written := written + 4;
        ELSIF dice < 0.88 THEN -- a key change: a delete and a create
            UPDATE account SET account_id = account_id + 1, version = version + 1 WHERE account_id = a.account_id;
            INSERT INTO journal (kind, account_id, version)
                VALUES ('close', a.account_id, a.version), ('open', a.account_id + 1, a.version + 1);
            written := written + 4;
        ELSIF dice < 0.93 THEN -- what a has goes to b, then a is closed
            UPDATE account SET balance = balance + a.balance, version = version + 1 WHERE account_id = b.account_id;
            DELETE FROM account WHERE account_id = a.account_id;
            INSERT INTO closed VALUES (a.account, a.account_id, a.version);
            INSERT INTO journal (kind, account_id, version)
                VALUES ('update', b.account_id, b.version + 1), ('close', a.account_id, a.version);
            written := written + 4;
        ELSE -- a closed account comes back
            DELETE FROM closed WHERE account = (SELECT account FROM closed LIMIT 1 FOR UPDATE SKIP LOCKED)
                RETURNING * INTO c;
            CONTINUE WHEN c.account IS NULL;
            INSERT INTO account VALUES (c.account_id, c.account, c.version + 1, 0);
            INSERT INTO journal (kind, account_id, version) VALUES ('open', c.account_id, c.version + 1);
            written := written + 2;
        END IF;
    END LOOP;
    IF written > 0 THEN
        INSERT INTO marker (records) VALUES (written + 1);
    END IF;
    -- Some are rolled back at the very end: nothing of them may be visible.
    IF random() < 0.02 THEN
        RAISE EXCEPTION 'given up';
    END IF;
END $$;

-- A big transaction: inserts a batch or deletes the oldest one.
CREATE FUNCTION big(rows int) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    this int;
    gone int;
    written int;
BEGIN
    SELECT min(batch) INTO gone FROM bulk HAVING count(DISTINCT batch) > 2;
    IF gone IS NOT NULL THEN
        DELETE FROM bulk WHERE batch = gone;
        GET DIAGNOSTICS written = ROW_COUNT;
    ELSE
        this := nextval('batch');
        INSERT INTO bulk SELECT this * 1000000::bigint + i, this FROM generate_series(1, rows) i;
        written := rows;
    END IF;
    INSERT INTO marker (records) VALUES (written + 1);
END $$;

-- A non-transactional message and a transactional one. Some transactions are rolled back; their non-transactional message is
-- sent nevertheless.
CREATE FUNCTION speak() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    alone bigint := nextval('saying');
    together bigint := nextval('saying');
BEGIN
    PERFORM pg_logical_emit_message(false, 'n.' || alone, repeat('alone', 100));
    PERFORM pg_logical_emit_message(true, 't.' || together, repeat('together', floor(random() * 1000)::int));
    INSERT INTO said VALUES (alone, false), (together, true);
    INSERT INTO marker (records) VALUES (2);
    IF random() < 0.2 THEN
        RAISE EXCEPTION 'given up';
    END IF;
END $$;

-- Inserts pages, and removes all of them with TRUNCATE.
CREATE FUNCTION leaf(empty_first bool) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    written int := 1;
    page bigint;
BEGIN
    IF empty_first THEN
        TRUNCATE page;
        INSERT INTO truncated DEFAULT VALUES;
        written := written + 1;
    END IF;
    FOR i IN 1..3 LOOP
        INSERT INTO page DEFAULT VALUES RETURNING page_id INTO page;
        INSERT INTO page_ever VALUES (page);
        written := written + 1;
    END LOOP;
    INSERT INTO marker (records) VALUES (written);
END $$;

-- A document that compresses well, and in the same transaction one that does not and is too large for Kafka.
CREATE FUNCTION document(is_refused bool) RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    id bigint := nextval('document_document_id_seq');
BEGIN
    INSERT INTO document VALUES (id, decode(repeat('00', 60000 * 16), 'hex'));
    IF is_refused THEN
        UPDATE document SET content = (SELECT string_agg(uuid_send(gen_random_uuid()), '') FROM generate_series(1, 60000))
            WHERE document_id = id;
    END IF;
    INSERT INTO document_made VALUES (id, is_refused);
    INSERT INTO marker (records) VALUES (CASE WHEN is_refused THEN 3 ELSE 2 END);
END $$;

-- Unpublished WAL.
CREATE FUNCTION hum(kilobytes int) RETURNS void LANGUAGE sql AS $$
    INSERT INTO noise SELECT repeat('noise', 190) FROM generate_series(1, kilobytes)
$$;

-- One to five changes of rows that a snapshot sends, or has sent, and sometimes another column.
CREATE FUNCTION stock() RETURNS void LANGUAGE plpgsql AS $$
DECLARE
    name text;
    base bigint;
    id bigint;
    dice float;
BEGIN
    FOR i IN 1..1 + floor(random() * 5)::int LOOP
        base := 1 + floor(random() * 6)::bigint;
        name := 'stock_' || base;
        base := base * 1000000000;
        EXECUTE format('SELECT stock_id FROM %I WHERE stock_id >= $1 ORDER BY stock_id LIMIT 1 FOR UPDATE', name)
            INTO id USING base + floor(random() * (SELECT last_value FROM stock_ids))::bigint;
        dice := random();
        IF id IS NULL OR dice < 0.15 THEN
            EXECUTE format('INSERT INTO %I VALUES ($1, 1, repeat(''new'', 20))', name) USING base + nextval('stock_ids');
        ELSIF dice < 0.30 THEN
            EXECUTE format('DELETE FROM %I WHERE stock_id = $1', name) USING id;
        ELSIF dice < 0.50 THEN -- a key change: a delete and a create
            EXECUTE format('UPDATE %I SET stock_id = $1, version = version + 1 WHERE stock_id = $2', name)
                USING base + nextval('stock_ids'), id;
        ELSE
            EXECUTE format('UPDATE %I SET version = version + 1 WHERE stock_id = $1', name) USING id;
        END IF;
    END LOOP;
    IF random() < 0.002 THEN
        EXECUTE format('ALTER TABLE %I ADD COLUMN IF NOT EXISTS extra int', name);
    ELSIF random() < 0.002 THEN
        EXECUTE format('ALTER TABLE %I DROP COLUMN IF EXISTS extra', name);
    ELSIF random() < 0.02 THEN
        RAISE EXCEPTION 'given up';
    END IF;
END $$;
