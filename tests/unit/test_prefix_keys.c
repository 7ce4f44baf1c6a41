/* prefix_keys.c: a request that goes on from another has its names among its own, and nobody else's. */
#include "tests/support/ty_test.h"

#include "common/wire/message.h"
#include "services/gateway/prefix_keys.h"

#include <stdlib.h>
#include <string.h>

static ty_pipeline pipeline = {.model_id = {"pre", "vit", "abs", "dec"}};

/* "s:" a system turn, "u:" the user's, "a:" the assistant's; "*" in a text is a picture. */
static Tyto__DecodeTask *make(const char *const *turn, int n) {
    Tyto__DecodeTask *d = ty_pb_new(&tyto__decode_task__descriptor);
    assert_int_equal(ty_pb_set_str(&d->template_, "owl"), TY_OK);
    for (int i = 0; i < n; i++) {
        Tyto__Turn *t = ty_pb_new(&tyto__turn__descriptor);
        const char *role = *turn[i] == 's' ? "system" : *turn[i] == 'u' ? "user" : "assistant";
        assert_int_equal(ty_pb_set_str(&t->role, role), TY_OK);
        for (const char *c = turn[i] + 2; *c; c++) {
            Tyto__Part *p = ty_pb_new(&tyto__part__descriptor);
            p->kind_case = *c == '*' ? TYTO__PART__KIND_IMAGE : TYTO__PART__KIND_TEXT;
            if (*c == '*')
                p->image = 1;
            else
                p->text = strndup(c, 1);
            assert_int_equal(ty_pb_append(&t->parts, &t->n_parts, p), TY_OK);
        }
        assert_int_equal(ty_pb_append(&d->turns, &d->n_turns, t), TY_OK);
    }
    return d;
}

static Tyto__DecodeTask *named(const char *const *turn, int n, const char *const *sha, int n_sha) {
    Tyto__DecodeTask *d = make(turn, n);
    assert_int_equal(prefix_keys_set(d, &pipeline, sha, n_sha, NULL), TY_OK);
    return d;
}

/* How many of the shorter one's names stand at the end of the longer one's. */
static size_t shared(const Tyto__DecodeTask *a, const Tyto__DecodeTask *b) {
    size_t n = 0;
    while (n < a->n_prefix_keys && n < b->n_prefix_keys &&
           a->prefix_keys[a->n_prefix_keys - 1 - n] == b->prefix_keys[b->n_prefix_keys - 1 - n])
        n++;
    return n;
}

static void drop(Tyto__DecodeTask *d) {
    tyto__decode_task__free_unpacked(d, NULL);
}

static const char *const TURNS[] = {"s:be kind", "u:*what", "a:an owl", "u:*and this", "a:a cat"};
static const char *const SHA[] = {"aa", "bb"};

static void a_later_turn_has_the_names_of_the_earlier(void **state) {
    (void)state;
    Tyto__DecodeTask *one = named(TURNS, 2, SHA, 1), *two = named(TURNS, 4, SHA, 2);
    assert_int_equal(one->n_prefix_keys, 2); /* behind the picture, behind the turn */
    assert_int_equal(two->n_prefix_keys, 5);
    assert_int_equal(shared(one, two), 2);
    drop(one);
    drop(two);
}

static void what_differs_has_other_names_from_there_on(void **state) {
    (void)state;
    static const char *const other[] = {"s:be kind", "u:*what", "a:an owl", "u:*or this"};
    static const char *const sha[] = {"aa", "cc"};
    Tyto__DecodeTask *a = named(TURNS, 4, SHA, 2), *b = named(TURNS, 4, sha, 2),
                     *c = named(other, 4, SHA, 2), *d = named(TURNS + 1, 3, SHA, 2);
    assert_int_equal(shared(a, b), 3); /* up to the second picture */
    assert_int_equal(shared(a, c), 4); /* up to the text behind it */
    assert_int_equal(shared(a, d), 0); /* another system turn */
    snprintf(pipeline.model_id[3], sizeof(pipeline.model_id[3]), "other");
    Tyto__DecodeTask *e = named(TURNS, 4, SHA, 2);
    snprintf(pipeline.model_id[3], sizeof(pipeline.model_id[3]), "dec");
    assert_int_equal(shared(a, e), 0);
    drop(a);
    drop(b);
    drop(c);
    drop(d);
    drop(e);
}

static void a_system_turn_alone_has_no_name(void **state) {
    (void)state;
    Tyto__DecodeTask *d = named(TURNS, 1, SHA, 0);
    assert_int_equal(d->n_prefix_keys, 0);
    drop(d);
}

static void a_long_conversation_keeps_its_last_and_its_first(void **state) {
    (void)state;
    const char *turn[40];
    for (int i = 0; i < 40; i++) turn[i] = i % 2 ? "a:no" : "u:why";
    Tyto__DecodeTask *first = named(turn, 1, NULL, 0), *most = named(turn, 38, NULL, 0),
                     *all = named(turn, 40, NULL, 0);
    assert_int_equal(all->n_prefix_keys, PREFIX_KEYS_MAX);
    assert_true(all->prefix_keys[PREFIX_KEYS_MAX - 1] == first->prefix_keys[0]);
    assert_true(all->prefix_keys[2] == most->prefix_keys[0]);
    assert_int_equal(shared(first, all), 1);
    drop(first);
    drop(most);
    drop(all);
}

static void a_verbatim_prompt_has_a_name(void **state) {
    (void)state;
    Tyto__DecodeTask *a = make(NULL, 0), *b = make(NULL, 0);
    assert_int_equal(ty_pb_set_str(&a->prompt, "See <image>"), TY_OK);
    assert_int_equal(ty_pb_set_str(&b->prompt, "See <image>"), TY_OK);
    assert_int_equal(prefix_keys_set(a, &pipeline, SHA, 1, NULL), TY_OK);
    assert_int_equal(prefix_keys_set(b, &pipeline, SHA + 1, 1, NULL), TY_OK);
    assert_int_equal(a->n_prefix_keys, 2);
    assert_int_equal(shared(a, b), 1);
    drop(a);
    drop(b);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(a_later_turn_has_the_names_of_the_earlier),
        cmocka_unit_test(what_differs_has_other_names_from_there_on),
        cmocka_unit_test(a_system_turn_alone_has_no_name),
        cmocka_unit_test(a_long_conversation_keeps_its_last_and_its_first),
        cmocka_unit_test(a_verbatim_prompt_has_a_name),
    };
    return cmocka_run_group_tests_name("prefix_keys", tests, NULL, NULL);
}
