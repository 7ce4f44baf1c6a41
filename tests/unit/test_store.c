/* common/store against a real redis-server: the cache of visual tokens, and conversations. */
#include "tests/support/ty_test.h"

#include "common/store/conversation.h"
#include "common/store/picture.h"
#include "common/store/token_cache.h"
#include "tests/support/process.h"
#include "tests/support/redis.h"

#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

static test_redis server;
static ty_redis *redis;
static const ty_store_policy policy = {.ttl_s = 100, .owner_max_bytes = 1000, .owner_max_count = 3};

/* Sends a command that was made and gives its reply. */
static redisReply *send_command(ty_status made, ty_store_command *c) {
    ty_err err = {0};
    redisReply *reply = NULL;
    assert_int_equal(made, TY_OK);
    ty_status st = ty_store_do(redis, c, &reply, &err);
    if (st != TY_OK) fail_msg("%s", err.text);
    ty_store_command_clear(c);
    return reply;
}

static ty_status begin(const char *id, const char *owner, int create, const char *lease,
                       int64_t lease_ms, json_t **conv) {
    ty_store_command c;
    json_t *got = NULL;
    ty_conversation_turn t = {.id = id,
                              .owner = owner,
                              .lease = lease,
                              .lease_ms = lease_ms,
                              .holder = "gateway.0",
                              .create = create,
                              .model = "owl"};
    redisReply *r = send_command(ty_conversation_begin(&c, &t, &policy, NULL), &c);
    ty_status st = ty_conversation_read(r, &got, NULL);
    freeReplyObject(r);
    if (conv)
        *conv = got;
    else
        json_decref(got);
    return st;
}

static ty_status commit(const char *id, const char *owner, const char *lease, const char *turn,
                        const char *sha, size_t size) {
    ty_store_command c;
    char bytes[2048] = {1, 2, 3};
    ty_conversation_picture pic = {sha, bytes, size};
    ty_conversation_turn t = {.id = id,
                              .owner = owner,
                              .lease = lease,
                              .model = "owl2",
                              .title = "A title",
                              .turns = &turn,
                              .n_turn = 1,
                              .pics = &pic,
                              .n_pic = sha ? 1 : 0};
    int64_t version = 0;
    redisReply *r = send_command(ty_conversation_commit(&c, &t, &policy, NULL), &c);
    ty_status st = ty_store_read_done(r, &version, NULL);
    freeReplyObject(r);
    if (st == TY_OK) assert_true(version > 0);
    return st;
}

static ty_status simple(ty_status made, ty_store_command *c) {
    int64_t v;
    redisReply *r = send_command(made, c);
    ty_status st = ty_store_read_done(r, &v, NULL);
    freeReplyObject(r);
    return st;
}

static ty_status picture(const char *owner, const char *sha) {
    ty_store_command c;
    const char *bytes;
    size_t size;
    redisReply *r = send_command(ty_picture_get(&c, owner, sha, &policy, NULL), &c);
    ty_status st = ty_picture_read(r, &bytes, &size, NULL);
    if (st == TY_OK) assert_memory_equal(bytes, "\1\2\3", 3);
    freeReplyObject(r);
    return st;
}

static ty_status fork_of(const char *id, const char *copy, const char *owner, int n) {
    ty_store_command c;
    json_t *list = NULL;
    redisReply *r =
        send_command(ty_conversation_fork(&c, id, copy, owner, n, "", &policy, NULL), &c);
    ty_status st = ty_conversation_read_list(r, &list, NULL);
    freeReplyObject(r);
    if (st == TY_OK) {
        json_t *info = json_array_get(list, 0);
        assert_string_equal(json_string_value(json_object_get(info, "id")), copy);
        assert_int_equal(json_integer_value(json_object_get(info, "turn_count")), n);
    }
    json_decref(list);
    return st;
}

static int turn_count(const char *id, const char *owner) {
    ty_store_command c;
    json_t *conv = NULL;
    redisReply *r = send_command(ty_conversation_get(&c, id, owner, NULL), &c);
    ty_status st = ty_conversation_read(r, &conv, NULL);
    freeReplyObject(r);
    int n = st == TY_OK ? (int)json_array_size(json_object_get(conv, "turns")) : -1;
    json_decref(conv);
    return n;
}

static void conversation_keeps_turns_and_pictures(void **state) {
    (void)state;
    char id[TY_CONVERSATION_ID];
    json_t *conv;
    assert_int_equal(ty_conversation_new_id(id, NULL), TY_OK);
    assert_true(ty_conversation_id_valid(id));
    assert_int_equal(begin(id, "ann", 0, "l0", 10000, NULL), TY_ENOTFOUND);
    assert_int_equal(begin(id, "ann", 1, "l1", 10000, NULL), TY_OK);
    assert_int_equal(commit(id, "ann", "l1", "{\"text\":\"one\"}", "aa", 3), TY_OK);
    assert_int_equal(begin(id, "ann", 0, "l2", 10000, &conv), TY_OK);
    json_t *turn = json_array_get(json_object_get(conv, "turns"), 0);
    assert_string_equal(json_string_value(json_object_get(turn, "text")), "one");
    assert_int_equal(json_integer_value(json_object_get(conv, "version")), 1);
    assert_string_equal(json_string_value(json_object_get(conv, "model")), "owl2");
    assert_string_equal(json_string_value(json_object_get(conv, "title")), "A title");
    json_decref(conv);
    assert_int_equal(picture("ann", "aa"), TY_OK);
    assert_int_equal(picture("bob", "aa"), TY_ENOTFOUND);
    assert_int_equal(turn_count(id, "bob"), -1);
}

static void conversation_lets_one_of_two_turns_win(void **state) {
    (void)state;
    char id[TY_CONVERSATION_ID];
    ty_conversation_new_id(id, NULL);
    assert_int_equal(begin(id, "ann", 1, "l1", 10000, NULL), TY_OK);
    assert_int_equal(begin(id, "ann", 0, "l2", 10000, NULL), TY_EEXIST);
    assert_int_equal(commit(id, "ann", "l2", "{}", NULL, 0), TY_ECANCELED);
    assert_int_equal(commit(id, "ann", "l1", "{}", NULL, 0), TY_OK);
    /* a lease whose owner died lapses */
    assert_int_equal(begin(id, "ann", 0, "l3", 30, NULL), TY_OK);
    nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    assert_int_equal(begin(id, "ann", 0, "l4", 10000, NULL), TY_OK);
    assert_int_equal(commit(id, "ann", "l3", "{}", NULL, 0), TY_ECANCELED);
    assert_int_equal(commit(id, "ann", "l4", "{}", NULL, 0), TY_OK);
    assert_int_equal(turn_count(id, "ann"), 2);
}

static void conversation_abandoned_at_birth_is_gone(void **state) {
    (void)state;
    char id[TY_CONVERSATION_ID];
    ty_store_command c;
    ty_conversation_turn t = {.id = id, .owner = "ann", .lease = "l1", .lease_ms = 10000};
    ty_conversation_new_id(id, NULL);
    assert_int_equal(begin(id, "ann", 1, "l1", 10000, NULL), TY_OK);
    assert_int_equal(simple(ty_conversation_abandon(&c, &t, NULL), &c), TY_OK);
    assert_int_equal(turn_count(id, "ann"), -1);
}

static void conversation_quotas_hold(void **state) {
    (void)state;
    char id[4][TY_CONVERSATION_ID];
    ty_store_command c;
    for (int i = 0; i < 4; i++) {
        ty_conversation_new_id(id[i], NULL);
        ty_status st = begin(id[i], "ann", 1, "l", 10000, NULL);
        assert_int_equal(st, i < 3 ? TY_OK : TY_ELIMIT);
        if (i < 3) assert_int_equal(commit(id[i], "ann", "l", "{}", NULL, 0), TY_OK);
    }
    assert_int_equal(begin(id[0], "ann", 0, "m", 10000, NULL), TY_OK);
    assert_int_equal(commit(id[0], "ann", "m", "{}", "bb", 1001), TY_ELIMIT);
    assert_int_equal(commit(id[0], "ann", "m", "{}", "bb", 900), TY_OK);
    assert_int_equal(begin(id[1], "ann", 0, "m", 10000, NULL), TY_OK);
    assert_int_equal(commit(id[1], "ann", "m", "{}", "cc", 900), TY_ELIMIT);
    assert_int_equal(simple(ty_conversation_delete(&c, id[0], "ann", NULL), &c), TY_OK);
    assert_int_equal(commit(id[1], "ann", "m", "{}", "cc", 900), TY_OK);
    assert_int_equal(picture("ann", "bb"), TY_ENOTFOUND);
}

static void conversation_fork_shares_pictures_until_both_are_gone(void **state) {
    (void)state;
    char id[TY_CONVERSATION_ID], copy[TY_CONVERSATION_ID];
    ty_store_command c;
    ty_conversation_new_id(id, NULL);
    ty_conversation_new_id(copy, NULL);
    assert_int_equal(begin(id, "ann", 1, "l1", 10000, NULL), TY_OK);
    assert_int_equal(commit(id, "ann", "l1", "{\"file_id\":\"aa\"}", "aa", 3), TY_OK);
    assert_int_equal(begin(id, "ann", 0, "l2", 10000, NULL), TY_OK);
    assert_int_equal(commit(id, "ann", "l2", "{\"file_id\":\"bb\"}", "bb", 3), TY_OK);
    assert_int_equal(fork_of(id, copy, "ann", 3), TY_EINVAL);
    assert_int_equal(fork_of(id, copy, "bob", 1), TY_ENOTFOUND);
    assert_int_equal(fork_of(id, copy, "ann", 1), TY_OK);
    assert_int_equal(turn_count(copy, "ann"), 1);
    assert_int_equal(simple(ty_conversation_delete(&c, id, "ann", NULL), &c), TY_OK);
    assert_int_equal(picture("ann", "aa"), TY_OK);
    assert_int_equal(picture("ann", "bb"), TY_ENOTFOUND); /* the fork's turns do not show it */
    assert_int_equal(simple(ty_conversation_delete(&c, copy, "ann", NULL), &c), TY_OK);
    assert_int_equal(picture("ann", "aa"), TY_ENOTFOUND);
}

/* A lease is renewed while the turn goes on; what is sent twice is done once. */
static void conversation_steps_may_come_twice(void **state) {
    (void)state;
    char id[TY_CONVERSATION_ID];
    ty_store_command c;
    ty_conversation_turn t = {.id = id, .owner = "ann", .lease = "l1", .lease_ms = 10000};
    ty_conversation_new_id(id, NULL);
    assert_int_equal(begin(id, "ann", 1, "l1", 200, NULL), TY_OK);
    assert_int_equal(begin(id, "ann", 1, "l1", 200, NULL), TY_OK);
    assert_int_equal(simple(ty_conversation_renew(&c, &t, NULL), &c), TY_OK);
    nanosleep(&(struct timespec){.tv_nsec = 250000000}, NULL);
    assert_int_equal(commit(id, "ann", "l1", "{}", "aa", 3), TY_OK);
    assert_int_equal(commit(id, "ann", "l1", "{}", "aa", 3), TY_OK);
    assert_int_equal(turn_count(id, "ann"), 1);
    assert_int_equal(simple(ty_conversation_renew(&c, &t, NULL), &c), TY_ECANCELED);
    assert_int_equal(simple(ty_conversation_abandon(&c, &t, NULL), &c), TY_OK);
    assert_int_equal(turn_count(id, "ann"), 1);
    /* a new one whose gateway died before its first commit is no conversation */
    ty_conversation_new_id(id, NULL);
    assert_int_equal(begin(id, "ann", 1, "l2", 30, NULL), TY_OK);
    nanosleep(&(struct timespec){.tv_nsec = 60000000}, NULL);
    assert_int_equal(turn_count(id, "ann"), -1);
    assert_int_equal(commit(id, "ann", "l2", "{}", NULL, 0), TY_ENOTFOUND);
}

static ty_status begin_keyed(const char *id, const char *key, const char *digest, int create,
                             json_t **conv) {
    ty_store_command c;
    ty_conversation_turn t = {.id = id,
                              .owner = "ann",
                              .lease = key,
                              .lease_ms = 10000,
                              .holder = "g",
                              .create = create,
                              .model = "owl",
                              .key = key,
                              .digest = digest};
    redisReply *r = send_command(ty_conversation_begin(&c, &t, &policy, NULL), &c);
    ty_status st = ty_conversation_read(r, conv, NULL);
    freeReplyObject(r);
    return st;
}

/* What a request with a key did is not done twice, in whatever conversation it is sent again. */
static void conversation_knows_requests_by_their_key(void **state) {
    (void)state;
    char id[2][TY_CONVERSATION_ID];
    json_t *conv;
    ty_store_command c;
    const char *turn = "{\"n\":1}";
    for (int i = 0; i < 2; i++) ty_conversation_new_id(id[i], NULL);
    ty_conversation_turn t = {.id = id[0],
                              .owner = "ann",
                              .lease = "k1",
                              .turns = &turn,
                              .n_turn = 1,
                              .key = "k1",
                              .digest = "d1"};
    assert_int_equal(begin_keyed(id[0], "k1", "d1", 1, &conv), TY_OK);
    assert_null(json_object_get(conv, "done"));
    json_decref(conv);
    assert_int_equal(simple(ty_conversation_commit(&c, &t, &policy, NULL), &c), TY_OK);
    assert_int_equal(begin(id[0], "ann", 0, "l2", 10000, NULL), TY_OK);
    assert_int_equal(commit(id[0], "ann", "l2", "{\"n\":2}", NULL, 0), TY_OK);
    /* the same again, for a new one: the conversation as it was then */
    assert_int_equal(begin_keyed(id[1], "k1", "d1", 1, &conv), TY_OK);
    assert_true(json_is_true(json_object_get(conv, "done")));
    assert_string_equal(json_string_value(json_object_get(conv, "id")), id[0]);
    assert_int_equal(json_array_size(json_object_get(conv, "turns")), 1);
    json_decref(conv);
    assert_int_equal(turn_count(id[1], "ann"), -1);
    assert_int_equal(begin_keyed(id[1], "k1", "d2", 1, &conv), TY_EINVAL);
    /* two at once: the second commit is refused */
    assert_int_equal(begin_keyed(id[1], "k3", "d", 1, &conv), TY_OK);
    json_decref(conv);
    t.id = id[1];
    t.lease = "k3";
    assert_int_equal(simple(ty_conversation_commit(&c, &t, &policy, NULL), &c), TY_EEXIST);
    assert_int_equal(turn_count(id[0], "ann"), 2);
}

/* A gateway that comes back frees what it held, and nothing that it holds now. */
static void conversation_is_free_when_its_gateway_is_back(void **state) {
    (void)state;
    char id[3][TY_CONVERSATION_ID], lease[TY_LEASE];
    ty_store_command c;
    for (int i = 0; i < 3; i++) ty_conversation_new_id(id[i], NULL);
    assert_int_equal(begin(id[0], "ann", 1, "old-1", 10000, NULL), TY_OK);
    assert_int_equal(commit(id[0], "ann", "old-1", "{}", NULL, 0), TY_OK);
    assert_int_equal(begin(id[0], "ann", 0, "old-2", 10000, NULL), TY_OK);
    assert_int_equal(begin(id[1], "ann", 1, "old-3", 10000, NULL), TY_OK);
    assert_int_equal(ty_conversation_new_lease("new-", lease, NULL), TY_OK);
    assert_memory_equal(lease, "new-", 4);
    assert_int_equal(begin(id[2], "ann", 1, lease, 10000, NULL), TY_OK);
    assert_int_equal(simple(ty_conversation_release(&c, "gateway.1", "new-", NULL), &c), TY_OK);
    assert_int_equal(begin(id[0], "ann", 0, "other", 10000, NULL), TY_EEXIST);
    assert_int_equal(simple(ty_conversation_release(&c, "gateway.0", "new-", NULL), &c), TY_OK);
    assert_int_equal(turn_count(id[1], "ann"), -1); /* it had no turn yet */
    assert_int_equal(begin(id[0], "ann", 0, "other", 10000, NULL), TY_OK);
    assert_int_equal(commit(id[0], "ann", "old-2", "{}", NULL, 0), TY_ECANCELED);
    assert_int_equal(commit(id[2], "ann", lease, "{}", NULL, 0), TY_OK);
}

static void conversation_list_is_the_owner_s_newest_first(void **state) {
    (void)state;
    char id[2][TY_CONVERSATION_ID];
    ty_store_command c;
    json_t *list;
    for (int i = 0; i < 2; i++) {
        ty_conversation_new_id(id[i], NULL);
        assert_int_equal(begin(id[i], "ann", 1, "l", 10000, NULL), TY_OK);
        nanosleep(&(struct timespec){.tv_nsec = 3000000}, NULL);
        assert_int_equal(commit(id[i], "ann", "l", "{}", NULL, 0), TY_OK);
    }
    redisReply *r = send_command(ty_conversation_list(&c, "ann", "", 10, &policy, NULL), &c);
    assert_int_equal(ty_conversation_read_list(r, &list, NULL), TY_OK);
    freeReplyObject(r);
    assert_int_equal(json_array_size(list), 2);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), id[1]);
    json_decref(list);
    r = send_command(ty_conversation_list(&c, "ann", id[1], 1, &policy, NULL), &c);
    assert_int_equal(ty_conversation_read_list(r, &list, NULL), TY_OK);
    freeReplyObject(r);
    assert_int_equal(json_array_size(list), 1);
    assert_string_equal(json_string_value(json_object_get(json_array_get(list, 0), "id")), id[0]);
    json_decref(list);
    r = send_command(ty_conversation_list(&c, "ann", "conv_none", 1, &policy, NULL), &c);
    assert_int_equal(ty_conversation_read_list(r, &list, NULL), TY_ENOTFOUND);
    freeReplyObject(r);
}

static void conversation_survives_kill_of_redis(void **state) {
    (void)state;
    char id[TY_CONVERSATION_ID];
    ty_conversation_new_id(id, NULL);
    assert_int_equal(begin(id, "ann", 1, "l", 10000, NULL), TY_OK);
    assert_int_equal(commit(id, "ann", "l", "{}", "aa", 3), TY_OK);
    test_redis_kill(&server);
    ty_store_command c;
    redisReply *reply;
    ty_err err;
    assert_int_equal(ty_conversation_get(&c, id, "ann", NULL), TY_OK);
    ty_status st = ty_store_do(redis, &c, &reply, &err);
    assert_true(st == TY_EIO || st == TY_EUNAVAILABLE);
    ty_store_command_clear(&c);
    test_redis_start(&server, server.dir, 1);
    nanosleep(&(struct timespec){.tv_nsec = 250000000}, NULL); /* the next try of the connection */
    assert_int_equal(turn_count(id, "ann"), 1);
    assert_int_equal(picture("ann", "aa"), TY_OK);
}

static ty_status put(const char *owner, const char *sha, size_t size) {
    ty_store_command c;
    char bytes[2048] = {1, 2, 3};
    json_t *file = NULL;
    ty_picture_file f = {sha, "owl.jpg", "vision", bytes, size};
    redisReply *r = send_command(ty_picture_put(&c, owner, &f, &policy, NULL), &c);
    ty_status st = ty_picture_read_file(r, &file, NULL);
    freeReplyObject(r);
    if (st == TY_OK) {
        assert_string_equal(json_string_value(json_object_get(file, "name")), "owl.jpg");
        assert_int_equal(json_integer_value(json_object_get(file, "bytes")), size);
        json_decref(file);
    }
    return st;
}

static size_t count_files(const char *owner) {
    ty_store_command c;
    json_t *list = NULL;
    redisReply *r = send_command(ty_picture_list(&c, owner, "", 10, &policy, NULL), &c);
    assert_int_equal(ty_picture_read_list(r, &list, NULL), TY_OK);
    freeReplyObject(r);
    size_t n = json_array_size(list);
    json_decref(list);
    return n;
}

static void file_is_its_owner_s(void **state) {
    (void)state;
    ty_store_command c;
    assert_int_equal(put("ann", "dd", 600), TY_OK);
    assert_int_equal(put("ann", "dd", 600), TY_OK); /* counted once */
    assert_int_equal(put("ann", "ee", 500), TY_ELIMIT);
    assert_int_equal(picture("ann", "dd"), TY_OK);
    assert_int_equal(picture("bob", "dd"), TY_ENOTFOUND);
    assert_int_equal(count_files("ann"), 1);
    assert_int_equal(count_files("bob"), 0);
    assert_int_equal(simple(ty_picture_delete(&c, "bob", "dd", NULL), &c), TY_ENOTFOUND);
    /* a conversation that shows it keeps it */
    char id[TY_CONVERSATION_ID];
    ty_conversation_new_id(id, NULL);
    assert_int_equal(begin(id, "ann", 1, "l", 10000, NULL), TY_OK);
    assert_int_equal(commit(id, "ann", "l", "{}", "dd", 300), TY_OK);
    assert_int_equal(simple(ty_picture_delete(&c, "ann", "dd", NULL), &c), TY_OK);
    assert_int_equal(count_files("ann"), 0);
    assert_int_equal(picture("ann", "dd"), TY_OK);
    assert_int_equal(put("ann", "ee", 500), TY_OK);
    assert_int_equal(simple(ty_conversation_delete(&c, id, "ann", NULL), &c), TY_OK);
    assert_int_equal(picture("ann", "dd"), TY_ENOTFOUND);
    assert_int_equal(picture("ann", "ee"), TY_OK);
}

static void cache_gives_back_the_bytes_or_nothing(void **state) {
    (void)state;
    ty_token_cache *cache;
    ty_err err = {0};
    char key[TY_CACHE_KEY_SIZE], other[TY_CACHE_KEY_SIZE], sha[TY_SHA256_HEX];
    const ty_stage_key steps[] = {{"m1", "int8"}, {"m2", "int8"}};
    ty_stage_key changed[] = {{"m1", "int8"}, {"m3", "int8"}};
    float data[6] = {1, 2, 3, 4, 5, 6};
    ty_tensor t = {.dtype = TY_F32,
                   .n_dim = 2,
                   .shape = {2, 3},
                   .data = data,
                   .size_bytes = sizeof(data)},
              got;
    void *owned;
    assert_int_equal(ty_token_cache_create(&cache, server.url, 60, &err), TY_OK);
    ty_sha256_hex("abc", 3, sha);
    assert_string_equal(sha, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    ty_picture_key picture_key = {sha, "native", false}, turned = {sha, "native", true};
    ty_token_cache_key(key, "vit", &picture_key, steps, 2);
    ty_token_cache_key(other, "vit", &turned, steps, 2);
    assert_string_not_equal(key, other);
    ty_token_cache_key(other, "vit", &picture_key, changed, 2);
    assert_string_not_equal(key, other);
    changed[1] = (ty_stage_key){"m2", "f32"};
    ty_token_cache_key(other, "vit", &picture_key, changed, 2);
    assert_string_not_equal(key, other);
    assert_true(ty_sha256_valid(sha));
    assert_false(ty_sha256_valid("abc"));
    assert_int_equal(ty_token_cache_get(cache, key, &got, &owned, &err), TY_ENOTFOUND);
    assert_int_equal(ty_token_cache_put(cache, key, &t, &err), TY_OK);
    assert_int_equal(ty_token_cache_get(cache, key, &got, &owned, &err), TY_OK);
    assert_int_equal(got.n_dim, 2);
    assert_int_equal(got.shape[1], 3);
    assert_memory_equal(got.data, data, sizeof(data));
    free(owned);
    assert_int_equal(ty_token_cache_get(cache, other, &got, &owned, &err), TY_ENOTFOUND);
    /* damage: one byte more, one byte other */
    const char *append[] = {"APPEND", key, "x"};
    size_t append_len[] = {6, strlen(key), 1};
    redisReply *reply;
    assert_int_equal(ty_redis_command(redis, 3, append, append_len, &reply, &err), TY_OK);
    freeReplyObject(reply);
    assert_int_equal(ty_token_cache_get(cache, key, &got, &owned, &err), TY_ENOTFOUND);
    assert_int_equal(ty_token_cache_put(cache, key, &t, &err), TY_OK);
    const char *setrange[] = {"SETRANGE", key, "100", "x"};
    size_t setrange_len[] = {8, strlen(key), 3, 1};
    assert_int_equal(ty_redis_command(redis, 4, setrange, setrange_len, &reply, &err), TY_OK);
    freeReplyObject(reply);
    assert_int_equal(ty_token_cache_get(cache, key, &got, &owned, &err), TY_ENOTFOUND);
    ty_token_cache_destroy(&cache);
}

static void redis_url_is_checked(void **state) {
    (void)state;
    ty_redis_address a;
    ty_err err;
    assert_int_equal(ty_redis_address_parse(&a, "redis://:pw@host:7000/3", &err), TY_OK);
    assert_string_equal(a.host, "host");
    assert_string_equal(a.password, "pw");
    assert_int_equal(a.port, 7000);
    assert_int_equal(a.db, 3);
    assert_int_equal(ty_redis_address_parse(&a, "unix:///tmp/x.sock?db=2", &err), TY_OK);
    assert_string_equal(a.host, "/tmp/x.sock");
    assert_int_equal(a.port, 0);
    assert_int_equal(a.db, 2);
    const char *bad[] = {
        "",        "http://x",  "redis://", "redis://h:0", "redis://h:99999", "redis://h/x",
        "unix://", "unix://rel"};
    for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++)
        assert_int_equal(ty_redis_address_parse(&a, bad[i], &err), TY_EINVAL);
}

static int start_server(void **state) {
    (void)state;
    signal(SIGPIPE, SIG_IGN);
    test_redis_start(&server, test_temp_dir(), 1);
    return ty_redis_create(&redis, server.url, 2000, NULL) == TY_OK ? 0 : -1;
}

static int stop_server(void **state) {
    (void)state;
    ty_redis_destroy(&redis);
    test_redis_kill(&server);
    return 0;
}

static int empty(void **state) {
    (void)state;
    const char *argv[] = {"FLUSHALL"};
    size_t len[] = {8};
    redisReply *reply;
    if (ty_redis_command(redis, 1, argv, len, &reply, NULL) != TY_OK) return -1;
    freeReplyObject(reply);
    return 0;
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(redis_url_is_checked),
        cmocka_unit_test_setup(conversation_keeps_turns_and_pictures, empty),
        cmocka_unit_test_setup(conversation_lets_one_of_two_turns_win, empty),
        cmocka_unit_test_setup(conversation_abandoned_at_birth_is_gone, empty),
        cmocka_unit_test_setup(conversation_quotas_hold, empty),
        cmocka_unit_test_setup(conversation_fork_shares_pictures_until_both_are_gone, empty),
        cmocka_unit_test_setup(conversation_steps_may_come_twice, empty),
        cmocka_unit_test_setup(conversation_knows_requests_by_their_key, empty),
        cmocka_unit_test_setup(conversation_is_free_when_its_gateway_is_back, empty),
        cmocka_unit_test_setup(conversation_list_is_the_owner_s_newest_first, empty),
        cmocka_unit_test_setup(conversation_survives_kill_of_redis, empty),
        cmocka_unit_test_setup(file_is_its_owner_s, empty),
        cmocka_unit_test_setup(cache_gives_back_the_bytes_or_nothing, empty),
    };
    return cmocka_run_group_tests_name("store", tests, start_server, stop_server);
}
