/* api_key.c - see api_key.h. */
#include "orchestration/api_key.h"

#include <errno.h>
#include <fcntl.h>
#include <openssl/crypto.h>
#include <openssl/evp.h>
#include <openssl/rand.h>
#include <openssl/sha.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { KEY_BYTES = 32, NOTE_MAX = 200 };

static ty_status draw(char key[API_KEY_TEXT], ty_err *err) {
    unsigned char bytes[KEY_BYTES], text[2 * KEY_BYTES];
    if (RAND_bytes(bytes, sizeof(bytes)) != 1)
        return ty_fail(err, TY_EIO, "the system gives no random numbers");
    int n = EVP_EncodeBlock(text, bytes, sizeof(bytes));
    while (n > 0 && text[n - 1] == '=') n--;
    /* URL's base64: nothing that a shell or a header would mind. */
    for (int i = 0; i < n; i++) text[i] = text[i] == '+' ? '-' : text[i] == '/' ? '_' : text[i];
    snprintf(key, API_KEY_TEXT, "tyto-%.*s", n, (char *)text);
    OPENSSL_cleanse(bytes, sizeof(bytes));
    OPENSSL_cleanse(text, sizeof(text));
    return TY_OK;
}

/* A last line without an end must not swallow ours. */
static const char *line_break(int fd) {
    char last = '\n';
    off_t size = lseek(fd, 0, SEEK_END);
    if (size > 0 && pread(fd, &last, 1, size - 1) != 1) last = '\0';
    return last == '\n' ? "" : "\n";
}

static ty_status append(const char *path, const char *note, const char *key, ty_err *err) {
    unsigned char digest[SHA256_DIGEST_LENGTH];
    char hex[2 * SHA256_DIGEST_LENGTH + 1], text[NOTE_MAX + 128];
    SHA256((const unsigned char *)key, strlen(key), digest);
    for (size_t i = 0; i < sizeof(digest); i++) snprintf(hex + 2 * i, 3, "%02x", digest[i]);
    int fd = open(path, O_RDWR | O_CREAT | O_APPEND | O_CLOEXEC, S_IRUSR | S_IWUSR);
    if (fd < 0) return ty_fail(err, TY_EIO, "%s: %s", path, strerror(errno));
    int n = snprintf(text, sizeof(text), "%s%s%s%ssha256:%s\n", line_break(fd), *note ? "# " : "",
                     note, *note ? "\n" : "", hex);
    bool ok = write(fd, text, (size_t)n) == n && fsync(fd) == 0;
    int why = errno;
    if (close(fd) != 0) ok = false;
    return ok ? TY_OK : ty_fail(err, TY_EIO, "%s: %s", path, strerror(why));
}

ty_status api_key_add(const char *path, const char *note, char key[API_KEY_TEXT], ty_err *err) {
    if (strpbrk(note, "\r\n") || strlen(note) > NOTE_MAX)
        return ty_fail(err, TY_EINVAL, "--note: want one line of at most %d bytes", NOTE_MAX);
    ty_status st = draw(key, err);
    if (st == TY_OK) st = append(path, note, key, err);
    if (st != TY_OK) OPENSSL_cleanse(key, API_KEY_TEXT);
    return st;
}
