/*
 * A client of the bus in C, on libzmq and nothing else: written from schemas/README.md, msgpack by hand.
 *
 *     dealer URL WANTED      e.g. dealer ipc:///run/busd/host.sock conformance.python
 *
 * Says hello, subscribes to conformance.>, publishes, calls $bus.ping and then WANTED, serves conformance.c, and answers
 * until somebody calls conformance.c.stop. Prints one line for each thing that happens; exits 0 when all went as the
 * protocol says, 1 with a line on stderr when it did not.
 */
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <zmq.h>

#define FRAME 4096
#define WAIT_MS 10000

enum { HELLO = 1, WELCOME, PUBLISH, SUBSCRIBE, UNSUBSCRIBE, SERVE, UNSERVE, CALL, REPLY, CANCEL, PING, PONG, DRAIN, BYE,
       ORIGIN, GAP, ERROR_ };
enum { OK, PARTIAL };

static void die(const char *why) {
    fprintf(stderr, "dealer: %s\n", why);
    exit(1);
}

/* -- writing msgpack: only the forms that this program needs ------------------------------------------------------ */

struct writer {
    uint8_t data[FRAME];
    size_t size;
};

static void put(struct writer *w, const void *data, size_t size) {
    if (size > FRAME - w->size)
        die("frame too small");
    memcpy(w->data + w->size, data, size);
    w->size += size;
}

static void put_byte(struct writer *w, uint8_t byte) { put(w, &byte, 1); }
static void put_array(struct writer *w, uint8_t fields) { put_byte(w, 0x90 | fields); }
static void put_map(struct writer *w, uint8_t entries) { put_byte(w, 0x80 | entries); }
static void put_nil(struct writer *w) { put_byte(w, 0xc0); }

static void put_uint(struct writer *w, uint32_t value) {
    if (value < 128) {
        put_byte(w, (uint8_t)value);
        return;
    }
    uint8_t data[5] = {0xce, value >> 24, value >> 16, value >> 8, value};
    put(w, data, 5);
}

static void put_text(struct writer *w, const char *text) {
    size_t size = strlen(text);
    if (size > 255)
        die("text too long");
    put_byte(w, 0xd9);
    put_byte(w, (uint8_t)size);
    put(w, text, size);
}

static void put_binary(struct writer *w, const uint8_t *data, size_t size) {
    if (size > 65535)
        die("binary too long");
    uint8_t head[3] = {0xc5, size >> 8, size};
    put(w, head, 3);
    put(w, data, size);
}

/* -- reading msgpack: every form, every length checked ------------------------------------------------------------- */

struct reader {
    const uint8_t *at, *end;
};

static const uint8_t *need(struct reader *r, size_t size) {
    if ((size_t)(r->end - r->at) < size)
        die("value ends beyond its frame");
    const uint8_t *data = r->at;
    r->at += size;
    return data;
}

static uint64_t big_endian(struct reader *r, int width) {
    const uint8_t *data = need(r, width);
    uint64_t value = 0;
    for (int i = 0; i < width; i++)
        value = value << 8 | data[i];
    return value;
}

static uint32_t get_count(struct reader *r, uint8_t fix, uint8_t mask, uint8_t form16) {
    uint8_t head = *need(r, 1);
    if ((head & ~mask) == fix)
        return head & mask;
    if (head == form16)
        return (uint32_t)big_endian(r, 2);
    if (head == form16 + 1)
        return (uint32_t)big_endian(r, 4);
    die("expected an array or a map");
    return 0;
}

static uint32_t get_array(struct reader *r) { return get_count(r, 0x90, 0x0f, 0xdc); }
static uint32_t get_map(struct reader *r) { return get_count(r, 0x80, 0x0f, 0xde); }

static uint64_t get_uint(struct reader *r) {
    uint8_t head = *need(r, 1);
    if (head < 0x80)
        return head;
    if (head >= 0xcc && head <= 0xcf)
        return big_endian(r, 1 << (head - 0xcc));
    if (head >= 0xd0 && head <= 0xd3) { /* signed forms of numbers that are not negative are legal too */
        int width = 1 << (head - 0xd0);
        uint64_t value = big_endian(r, width);
        if (value >> (8 * width - 1))
            die("a negative number");
        return value;
    }
    die("expected an unsigned integer");
    return 0;
}

struct slice {
    const uint8_t *data;
    size_t size;
};

static struct slice get_text(struct reader *r) {
    uint8_t head = *need(r, 1);
    size_t size = 0;
    if ((head & 0xe0) == 0xa0)
        size = head & 0x1f;
    else if (head >= 0xd9 && head <= 0xdb)
        size = big_endian(r, 1 << (head - 0xd9));
    else
        die("expected a string");
    return (struct slice){need(r, size), size};
}

static struct slice get_binary(struct reader *r) {
    uint8_t head = *need(r, 1);
    if (head < 0xc4 || head > 0xc6)
        die("expected a binary");
    size_t size = big_endian(r, 1 << (head - 0xc4));
    return (struct slice){need(r, size), size};
}

static void skip(struct reader *r, int depth) {
    if (depth > 16)
        die("nested too deep");
    uint8_t head = *need(r, 1);
    r->at--;
    if ((head & 0xf0) == 0x90 || head == 0xdc || head == 0xdd) {
        for (uint32_t n = get_array(r); n > 0; n--)
            skip(r, depth + 1);
    } else if ((head & 0xf0) == 0x80 || head == 0xde || head == 0xdf) {
        for (uint64_t n = 2 * (uint64_t)get_map(r); n > 0; n--)
            skip(r, depth + 1);
    } else if ((head & 0xe0) == 0xa0 || (head >= 0xd9 && head <= 0xdb)) {
        get_text(r);
    } else if (head >= 0xc4 && head <= 0xc6) {
        get_binary(r);
    } else if (head < 0x80 || head >= 0xe0 || head == 0xc0 || head == 0xc2 || head == 0xc3) {
        need(r, 1);
    } else if (head == 0xca || head == 0xcb) {
        need(r, head == 0xca ? 5 : 9);
    } else if (head >= 0xcc && head <= 0xd3) {
        need(r, 1 + (1 << ((head - 0xcc) % 4)));
    } else {
        die("no msgpack, or an ext type, which the protocol does not have");
    }
}

/* The string under a key of the map in a payload; an empty slice if there is none. */
static struct slice find_text(struct slice payload, const char *key) {
    struct reader r = {payload.data, payload.data + payload.size};
    for (uint32_t n = get_map(&r); n > 0; n--) {
        struct slice name = get_text(&r);
        if (name.size == strlen(key) && !memcmp(name.data, key, name.size))
            return get_text(&r);
        skip(&r, 0);
    }
    return (struct slice){NULL, 0};
}

/* -- the protocol --------------------------------------------------------------------------------------------------- */

static void *socket_;

static void send_frame(struct writer *w) {
    if (zmq_send(socket_, w->data, w->size, 0) < 0)
        die(zmq_strerror(zmq_errno()));
    w->size = 0;
}

/* Requests: each adds an envelope to the frame; they are sent together. */

static void put_hello(struct writer *w) {
    put_array(w, 3), put_uint(w, HELLO), put_uint(w, 1);
    put_map(w, 3);
    put_text(w, "component"), put_text(w, "c-dealer");
    put_text(w, "owner"), put_text(w, "tests");
    put_text(w, "purpose"), put_text(w, "shows that C needs libzmq and a page");
}

static void put_request(struct writer *w, uint32_t kind, uint32_t id, const char *pattern) {
    put_array(w, 4), put_uint(w, kind), put_uint(w, id), put_text(w, pattern), put_map(w, 0);
}

static void put_publish(struct writer *w, const char *subject, struct slice payload) {
    put_array(w, 4), put_uint(w, PUBLISH), put_text(w, subject), put_nil(w), put_binary(w, payload.data, payload.size);
}

static void put_call(struct writer *w, uint32_t id, const char *subject, uint32_t ms, struct slice payload) {
    put_array(w, 6), put_uint(w, CALL), put_uint(w, id), put_text(w, subject), put_uint(w, ms), put_nil(w);
    put_binary(w, payload.data, payload.size);
}

static void put_reply(struct writer *w, uint32_t id, uint32_t status, struct slice payload) {
    put_array(w, 5), put_uint(w, REPLY), put_uint(w, id), put_uint(w, status), put_nil(w);
    put_binary(w, payload.data, payload.size);
}

static char origin[256] = "(none)";
static int stopped;

static void on_call(struct reader *r, struct writer *out) {
    uint32_t id = (uint32_t)get_uint(r);
    struct slice subject = get_text(r);
    uint64_t ms = get_uint(r);
    skip(r, 0);
    struct slice payload = get_binary(r);
    printf("call %.*s within %s from %s\n", (int)subject.size, subject.data, ms ? "its time" : "no time", origin);
    put_reply(out, id, PARTIAL, payload);
    put_reply(out, id, OK, payload);
    if (subject.size == 18 && !memcmp(subject.data, "conformance.c.stop", 18))
        stopped = 1;
}

static void on_reply(struct reader *r) {
    uint64_t id = get_uint(r), status = get_uint(r);
    skip(r, 0);
    struct slice payload = get_binary(r);
    printf("reply %llu status %llu from %s", (unsigned long long)id, (unsigned long long)status, origin);
    if (payload.size && (payload.data[0] & 0xf0) == 0x80) {
        struct slice text = find_text(payload, status ? "name" : "node");
        printf(" %.*s", (int)text.size, text.data);
    }
    printf("\n");
}

static void on_envelope(struct reader *r, struct writer *out) {
    const uint8_t *start = r->at;
    skip(r, 0); /* where it ends, whatever fields a newer sender appended */
    struct reader fields = {start, r->at};
    if (get_array(&fields) < 1)
        die("an envelope without a kind");
    uint64_t kind = get_uint(&fields);
    if (kind == WELCOME) {
        uint64_t version = get_uint(&fields);
        struct slice name = get_text(&fields);
        printf("welcome version %llu endpoint %.*s\n", (unsigned long long)version, (int)name.size, name.data);
    } else if (kind == ORIGIN) {
        struct slice name = get_text(&fields);
        snprintf(origin, sizeof origin, "%.*s", (int)name.size, name.data);
    } else if (kind == PUBLISH) {
        struct slice subject = get_text(&fields);
        skip(&fields, 0);
        struct slice payload = get_binary(&fields);
        printf("message %.*s of %zu bytes from %s\n", (int)subject.size, subject.data, payload.size, origin);
    } else if (kind == CALL) {
        on_call(&fields, out);
    } else if (kind == REPLY) {
        on_reply(&fields);
    } else if (kind == PING) {
        put_array(out, 2), put_uint(out, PONG), put_uint(out, (uint32_t)get_uint(&fields));
    } else if (kind == GAP || kind == ERROR_) {
        printf("%s\n", kind == GAP ? "gap" : "error");
    } else if (kind == BYE) {
        die("the broker said bye");
    } else if (kind != CANCEL && kind != PONG && kind != DRAIN && (kind < 64 || kind > 127)) {
        die("a kind that must be understood and is not");
    }
}

static void receive(void) {
    zmq_msg_t message;
    zmq_msg_init(&message);
    if (zmq_msg_recv(&message, socket_, 0) < 0)
        die("nothing came within 10 s");
    if (zmq_msg_more(&message))
        die("a message of more than one frame");
    struct reader r = {zmq_msg_data(&message), (const uint8_t *)zmq_msg_data(&message) + zmq_msg_size(&message)};
    struct writer out = {.size = 0};
    strcpy(origin, "(none)"); /* an origin holds to the end of its frame */
    while (r.at < r.end)
        on_envelope(&r, &out);
    zmq_msg_close(&message);
    fflush(stdout);
    if (out.size)
        send_frame(&out);
}

int main(int argc, char **argv) {
    if (argc != 3)
        die("usage: dealer URL WANTED");
    int wait = WAIT_MS, linger = 1000, never = -1;
    void *context = zmq_ctx_new();
    socket_ = zmq_socket(context, ZMQ_DEALER);
    zmq_setsockopt(socket_, ZMQ_RCVTIMEO, &wait, sizeof wait);
    zmq_setsockopt(socket_, ZMQ_SNDTIMEO, &wait, sizeof wait);
    zmq_setsockopt(socket_, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(socket_, ZMQ_RECONNECT_IVL, &never, sizeof never); /* a new connection needs a new hello */
    if (zmq_connect(socket_, argv[1]) < 0)
        die(zmq_strerror(zmq_errno()));

    const struct slice nil = {(const uint8_t *)"\xc0", 1}, map = {(const uint8_t *)"\x81\xa1n\x01", 4};
    struct writer w = {.size = 0};
    put_hello(&w); /* and the first requests at once: there is no need to wait for welcome */
    put_request(&w, SUBSCRIBE, 1, "conformance.>");
    put_request(&w, SERVE, 2, "conformance.c.*");
    put_call(&w, 3, "$bus.ping", 5000, nil);
    put_call(&w, 4, "conformance.nobody", 5000, nil);
    put_call(&w, 5, argv[2], 5000, map);
    put_publish(&w, "conformance.tick", map);
    send_frame(&w);
    while (!stopped)
        receive();
    put_array(&w, 2), put_uint(&w, BYE), put_nil(&w);
    send_frame(&w);
    zmq_close(socket_);
    zmq_ctx_term(context);
    printf("bye\n");
    return 0;
}
