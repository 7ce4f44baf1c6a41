/*
 * The tokenizer on random texts: the heap and its segments against merging done the plain way, decoding
 * back to the text, and no crash on any bytes.  FUZZ_ROUNDS sets how many; the seed is fixed.
 */
#include "tests/support/ty_test.h"

#include "common/base/utf8.h"
#include "common/model/tokenizer_impl.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { TEXT_MAX = 160, SYMBOLS_MAX = 4 * TEXT_MAX };

static int rounds(void) {
    const char *env = getenv("FUZZ_ROUNDS");
    return env && atoi(env) > 0 ? atoi(env) : 3000;
}

static ty_tokenizer *open_model(const char *path) {
    ty_tokenizer *t = NULL;
    ty_err err = {0};
    if (ty_tokenizer_from_spm(&t, path, &err) != TY_OK) fail_msg("%s", err.text);
    return t;
}

/* Pieces of the vocabulary, runs of spaces, letters, other scripts, special words, sometimes raw bytes. */
static size_t random_text(const ty_tokenizer *t, unsigned *seed, bool valid, char *out) {
    static const char *const words[] = {
        "<s>",          "</s>", "<unk>",   "\xE2\x96\x81", "\xE3\x80\x80", "\n", "\xF0\x9F\xA6\x89",
        "\xEF\xBF\xBD", "\t",   "Human: ", "\r\n"};
    size_t len = 0, limit = (size_t)rand_r(seed) % TEXT_MAX;
    while (len < limit) {
        char one[64];
        size_t n = 1;
        const char *add = one;
        int kind = rand_r(seed) % (valid ? 4 : 5);
        if (kind == 0) {
            add = ty_tokenizer_piece(t, rand_r(seed) % ty_tokenizer_size(t), &n);
        } else if (kind == 1) {
            n = 1 + (size_t)rand_r(seed) % 20;
            memset(one, ' ', n);
        } else if (kind == 2) {
            add = words[(size_t)rand_r(seed) % (sizeof words / sizeof *words)];
            n = strlen(add);
        } else if (kind == 3) {
            for (n = 0; n < 8; n++) one[n] = (char)("aeinorst bcd.,"[rand_r(seed) % 14]);
        } else {
            one[0] = (char)rand_r(seed);
        }
        if (len + n > TEXT_MAX) break;
        memcpy(out + len, add, n);
        len += n;
    }
    return len;
}

/* The text as the merges see it, by replacing characters one at a time. */
static size_t normalised(const char *text, size_t len, char *out) {
    size_t n = 0;
    if (len) n += (size_t)sprintf(out + n, TY_SPM_SPACE);
    for (size_t i = 0; i < len;) {
        uint32_t code;
        size_t k = ty_utf8_decode(text + i, len - i, &code);
        if (!k || text[i] == ' ') {
            n += (size_t)sprintf(out + n, "%s", k ? TY_SPM_SPACE : TY_UTF8_REPLACEMENT);
            i++;
            continue;
        }
        memcpy(out + n, text + i, k);
        n += k;
        i += k;
    }
    return n;
}

typedef struct {
    size_t at, len;
} span;

/* Merges the best pair of the whole text until there is none, looking at all of them each time. */
static int merge_plainly(const ty_tokenizer *t, const char *text, size_t len, span *s) {
    int n = 0;
    for (size_t i = 0, k; i < len; i += k, n++) {
        uint32_t code;
        k = ty_utf8_decode(text + i, len - i, &code);
        s[n] = (span){i, k};
    }
    for (;;) {
        int best = -1;
        int32_t best_id = -1;
        for (int i = 0; i + 1 < n; i++) {
            int32_t id = ty_tokenizer_find(t, text + s[i].at, s[i].len + s[i + 1].len);
            if (id >= 0 &&
                (best < 0 || ty_tokenizer_score(t, id) > ty_tokenizer_score(t, best_id))) {
                best = i;
                best_id = id;
            }
        }
        if (best < 0) return n;
        s[best].len += s[best + 1].len;
        memmove(s + best + 1, s + best + 2, (size_t)(n - best - 2) * sizeof *s);
        n--;
    }
}

static void encode_plainly(const ty_tokenizer *t, const char *text, size_t len, ty_ids *out) {
    static char normal[3 * TEXT_MAX + 8];
    static span s[SYMBOLS_MAX];
    size_t n_text = normalised(text, len, normal);
    int n = merge_plainly(t, normal, n_text, s);
    for (int i = 0; i < n; i++) {
        int32_t id = ty_tokenizer_find(t, normal + s[i].at, s[i].len);
        if (id >= 0) ty_ids_push(out, id);
        for (size_t j = 0; id < 0 && j < s[i].len; j++)
            ty_ids_push(out, t->byte_id[(unsigned char)normal[s[i].at + j]]);
    }
}

static void same_ids(const ty_ids *got, const ty_ids *want, const char *text, size_t len) {
    bool same = got->n == want->n &&
                (!got->n || memcmp(got->id, want->id, (size_t)got->n * sizeof *got->id) == 0);
    if (same) return;
    for (size_t i = 0; i < len; i++) print_error("%02x", (unsigned char)text[i]);
    fail_msg(": %d ids, want %d", got->n, want->n);
}

static void merges_equal_the_plain_way(void **state) {
    (void)state;
    ty_tokenizer *t = open_model("tests/golden/tokenizer/tokenizer.model");
    unsigned seed = 20;
    for (int i = 0; i < rounds(); i++) {
        char text[TEXT_MAX];
        ty_ids got = {0}, want = {0};
        size_t len = random_text(t, &seed, i % 2, text);
        assert_int_equal(ty_tokenizer_encode(t, TY_TOKENIZE_SPM, text, len, &got, NULL), TY_OK);
        encode_plainly(t, text, len, &want);
        same_ids(&got, &want, text, len);
        ty_ids_clear(&got);
        ty_ids_clear(&want);
    }
    ty_tokenizer_destroy(&t);
}

static void decoding_gives_the_text_back(void **state) {
    (void)state;
    ty_tokenizer *t = open_model("tests/golden/tokenizer/tokenizer-small.model");
    unsigned seed = 21;
    for (int i = 0; i < rounds(); i++) {
        char text[TEXT_MAX], normal[3 * TEXT_MAX + 8];
        ty_ids ids = {0};
        ty_buf got = ty_buf_make(1 << 16), want = ty_buf_make(1 << 16);
        size_t len = random_text(t, &seed, i % 2, text);
        assert_int_equal(ty_tokenizer_encode(t, TY_TOKENIZE_SPM, text, len, &ids, NULL), TY_OK);
        assert_int_equal(ty_tokenizer_decode(t, TY_DECODE_SPM, ids.id, ids.n, &got), TY_OK);
        size_t n = normalised(text, len, normal);
        for (size_t at = n ? 3 : 0; at < n;) {
            bool space = n - at >= 3 && memcmp(normal + at, TY_SPM_SPACE, 3) == 0;
            ty_buf_append(&want, space ? " " : normal + at, 1);
            at += space ? 3 : 1;
        }
        assert_int_equal(got.len, want.len);
        if (got.len) assert_memory_equal(got.data, want.data, got.len);
        ty_buf_clear(&got);
        ty_buf_clear(&want);
        ty_ids_clear(&ids);
    }
    ty_tokenizer_destroy(&t);
}

static void any_bytes_and_ids_are_survived(void **state) {
    (void)state;
    ty_tokenizer *t = open_model("tests/golden/tokenizer/tokenizer-small.model");
    unsigned seed = 22;
    for (int i = 0; i < rounds(); i++) {
        char text[TEXT_MAX];
        ty_ids ids = {0};
        size_t len = random_text(t, &seed, false, text);
        ty_tokenize_mode mode = (ty_tokenize_mode)(i % 3);
        assert_int_equal(ty_tokenizer_encode(t, mode, text, len, &ids, NULL), TY_OK);
        for (int k = 0; k < ids.n; k++) assert_in_range(ids.id[k], 0, ty_tokenizer_size(t) - 1);
        for (int k = 0; k < 20; k++) ty_ids_push(&ids, rand_r(&seed) % 700 - 20);
        ty_buf out = ty_buf_make(1 << 16);
        ty_decode_mode how = (ty_decode_mode)(i % 3);
        assert_int_equal(ty_tokenizer_decode(t, how, ids.id, ids.n, &out), TY_OK);
        assert_true(!out.len || ty_utf8_is_valid(out.data, out.len));
        ty_buf_clear(&out);
        ty_ids_clear(&ids);
    }
    ty_tokenizer_destroy(&t);
}

int main(void) {
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(merges_equal_the_plain_way),
        cmocka_unit_test(decoding_gives_the_text_back),
        cmocka_unit_test(any_bytes_and_ids_are_survived),
    };
    return cmocka_run_group_tests_name("tokenizer fuzz", tests, NULL, NULL);
}
