/* What a task's two messages cost a relay: shape, signature, replay check and the fields that routing needs; and what writing
 * one costs. The peer is jansson, a JSON library in C, for parsing the same frames into trees and taking the same fields. */
#include "base/number.h"
#include "net/sign.h"
#include "wire/message.h"
#include "wire/replay.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { ROUNDS = 51, MESSAGES = 2000 };

static const char metadata[] =
    "{\"after\": [], \"follow\": [], \"timeout\": null, \"targets\": [], \"retries\": 0, \"label\": null, \"x\": {\"y\": [1, 2, 3]}}";

static mh__session session;
static mh__replay *replay;
static mh__built built;
static mh_bytes frames[8];
static uint64_t sum;

static void must(mh_err err)
{
    if (err) {
        fprintf(stderr, "%s: %s\n", mh_err_name(err), mh_err_detail());
        exit(1);
    }
}

static void write_one(void)
{
    must(mh__session_build(&session, &(mh__draft){.type = "apply_request", .metadata = MH__TEXT(metadata), .unix_ns = mh_now()}, &built));
}

static void verify_one(void)
{
    mh__message m;
    must(mh__message_split(frames, 8, &m));
    must(mh__message_verify(&m, &session.signer));
    sum += m.buffer_count;
}

static void read_one(void)
{
    static const char *const keys[] = {"after", "follow", "timeout", "targets", "retries"};
    mh__json got[MH__COUNT_OF(keys)];
    mh__message m;
    mh__header h;
    mh_bytes parent;
    must(mh__message_split(frames, 8, &m));
    must(mh__header_read(m.header, &h));
    must(mh__parent_read(m.parent, &parent));
    must(mh__json_pick(m.metadata, keys, MH__COUNT_OF(keys), got));
    sum += h.msg_id.size + got[4].size;
}

static void replay_one(void)
{
    static uint64_t number;
    char id[64];
    uint64_t bytes[2] = {number, 1};
    int size = snprintf(id, sizeof id, "%s_%llu", session.id, (unsigned long long)number++);
    must(mh__replay_admit(replay, (mh_bytes){bytes, sizeof bytes}, (mh_bytes){id, (size_t)size}, 1));
}

static void jansson_one(void)
{
    static const char *const keys[] = {"after", "follow", "timeout", "targets", "retries"};
    json_t *trees[3];
    for (size_t i = 0; i < 3; i++) {
        trees[i] = json_loadb(frames[3 + i].data, frames[3 + i].size, 0, NULL);
        if (!trees[i])
            abort();
    }
    sum += strlen(json_string_value(json_object_get(trees[0], "msg_id")));
    sum += strlen(json_string_value(json_object_get(trees[0], "msg_type")));
    sum += strlen(json_string_value(json_object_get(trees[0], "session")));
    sum += json_object_get(trees[1], "msg_id") != NULL;
    for (size_t i = 0; i < MH__COUNT_OF(keys); i++)
        sum += json_object_get(trees[2], keys[i]) != NULL;
    for (size_t i = 0; i < 3; i++)
        json_decref(trees[i]);
}

static int by_value(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

static double bench(const char *name, void (*fn)(void), double peer)
{
    double ns[ROUNDS];
    for (int r = 0; r < ROUNDS; r++) {
        int64_t start = mh_now();
        for (int i = 0; i < MESSAGES; i++)
            fn();
        ns[r] = (double)(mh_now() - start) / MESSAGES;
    }
    qsort(ns, ROUNDS, sizeof *ns, by_value);
    printf("%-22s %8.0f ns/message  p99 %8.0f", name, ns[ROUNDS / 2], ns[ROUNDS - 1]);
    if (peer > 0)
        printf("  ratio to jansson %.2f", ns[ROUNDS / 2] / peer);
    printf("\n");
    return ns[ROUNDS / 2];
}

int main(void)
{
    mh__sign_key *key = NULL;
    char secret[MH__SECRET_SIZE];
    must(mh__secret_create(secret));
    must(mh__sign_key_create(&key, mh__text(secret)));
    must(mh__replay_create(&replay));
    session.signer = mh__sign_key_signer(key);
    strcpy(session.id, "5f0c1f6e-5b9c0d4fd2a2a5a0a2f1_12345");
    strcpy(session.username, "user");
    static mh__built stored;
    must(mh__session_build(&session, &(mh__draft){.type = "apply_request", .metadata = MH__TEXT(metadata), .unix_ns = mh_now()}, &stored));
    frames[0] = MH__TEXT("client");
    memcpy(frames + 1, stored.frames, sizeof stored.frames);
    frames[7] = MH__TEXT("buffer");
    double peer = bench("jansson: parse, take", jansson_one, 0);
    bench("parse, take fields", read_one, peer);
    bench("verify HMAC-SHA256", verify_one, 0);
    bench("replay check", replay_one, 0);
    bench("write and sign", write_one, 0);
    mh__replay_destroy(&replay);
    mh__sign_key_destroy(&key);
    return sum == 0;
}
