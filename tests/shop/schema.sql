-- A small shop, as its owners would have built it: nothing here knows of Griot.

create table orders (
    id bigint generated always as identity primary key,
    user_id text not null,
    status text not null default 'placed',
    total_cents bigint not null,
    committed_at_us bigint not null default extract(epoch from clock_timestamp()) * 1000000
);

create table wallets (
    wallet_id bigint generated always as identity primary key,
    user_id text not null unique,
    balance_cents bigint not null,
    version bigint not null default 1,
    committed_at_us bigint not null default extract(epoch from clock_timestamp()) * 1000000
);

create table products (
    id bigint generated always as identity primary key,
    slug text not null unique,
    name text not null,
    price_cents bigint not null,
    stock bigint not null,
    committed_at_us bigint not null default extract(epoch from clock_timestamp()) * 1000000
);

insert into wallets (user_id, balance_cents)
select u, 500000 from unnest(array['42', '4', '2', '7', '1e2', '9007199254740993']) as u;

insert into products (slug, name, price_cents, stock) values
    ('kora', 'Kora, 21 strings', 1890000, 4),
    ('djembe', 'Djembe, goatskin', 642000, 17),
    ('balafon', 'Balafon, 18 keys', 1125000, 6);

-- The moment of a change, so that the page can show how long it took to arrive.
create function touched() returns trigger language plpgsql as $$
begin
    new.committed_at_us := extract(epoch from clock_timestamp()) * 1000000;
    return new;
end
$$;

create trigger touched before update on orders for each row execute function touched();
create trigger touched before update on wallets for each row execute function touched();
create trigger touched before update on products for each row execute function touched();
