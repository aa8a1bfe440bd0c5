/* JSON without a tree: a value is a slice of the text that holds it. Reading allocates nothing and never recurses; what was
 * checked once can be looked into as often as needed. Writing appends to a buffer and remembers its first failure.
 *
 *     mh__json got[2];
 *     const char *const keys[] = {"msg_id", "date"};
 *     mh_err err = mh__json_pick(frame, keys, 2, got);     // one pass: checks the whole text, finds both members
 *     mh_bytes id;
 *     if (!err && mh__json_plain(got[0], &id)) ...          // a string without escapes: its bytes, in place
 *
 * Accepted is RFC 8259 in UTF-8, nested up to MH__JSON_DEPTH. Of members with the same name the last counts, as in Python.
 */
#ifndef MH_WIRE_JSON_H
#define MH_WIRE_JSON_H

#include "manyhands/base.h"

enum { MH__JSON_DEPTH = 256 };

/* One checked value, without the spaces around it, borrowed from the text. text NULL: absent. */
typedef struct mh__json {
    const char *text;
    size_t size;
} mh__json;

typedef enum mh__json_kind {
    MH__JSON_ABSENT = 0,
    MH__JSON_NULL,
    MH__JSON_BOOL,
    MH__JSON_NUMBER,
    MH__JSON_STRING,
    MH__JSON_ARRAY,
    MH__JSON_OBJECT
} mh__json_kind;

/* ---- reading --------------------------------------------------------------------------------- */

/* Check a whole text. errors: CORRUPT. */
MH_NODISCARD mh_err mh__json_check(mh_bytes text, mh__json *out);
/* Check a whole text that must be an object, and find its members keys[i] as found[i] (absent: zeroed) in the same pass.
 * errors: CORRUPT it is not valid, or no object. */
MH_NODISCARD mh_err mh__json_pick(mh_bytes text, const char *const *keys, size_t count, mh__json *found);

mh__json_kind mh__json_kind_of(mh__json v);
/* A member of an object; absent when there is none, or v is no object. */
mh__json mh__json_get(mh__json object, const char *key);
/* How many elements or members. */
size_t mh__json_count(mh__json v);

/* Walk the elements of an array or the members of an object:
 *     mh__json_walk w = mh__json_walk_of(v);
 *     for (mh__json key, value; mh__json_next(&w, &key, &value);) ...     (key is absent in arrays) */
typedef struct mh__json_walk {
    const char *at, *end;
    bool is_object;
} mh__json_walk;
mh__json_walk mh__json_walk_of(mh__json v);
bool mh__json_next(mh__json_walk *w, mh__json *key, mh__json *value);

/* Each gives false, and leaves *out alone, when v is not of that kind (or does not fit). */
bool mh__json_plain(mh__json v, mh_bytes *out);  /* a string without escapes: its bytes, borrowed */
bool mh__json_int(mh__json v, int64_t *out);     /* a number without fraction and exponent, or with a zero fraction */
bool mh__json_double(mh__json v, double *out);
bool mh__json_bool(mh__json v, bool *out);
bool mh__json_is(mh__json v, const char *string); /* a string that equals it, escapes resolved */
/* Append the bytes of a string, escapes resolved (a lone surrogate becomes U+FFFD). errors: INVALID no string; NO_MEMORY. */
MH_NODISCARD mh_err mh__json_string(mh__json v, mh_buf *out);
/* The order of two strings by code points, as Python's: below, at or above 0. */
int mh__json_compare_strings(mh__json a, mh__json b);
/* Whether two values are equal, as Python would find it after parsing them (1 == 1.0, members in any order). */
bool mh__json_equal(mh__json a, mh__json b);

static inline mh_bytes mh__json_bytes(mh__json v) { return (mh_bytes){v.text, v.size}; }

/* ---- writing --------------------------------------------------------------------------------- */

/* Commas are set by themselves. After a failure every call does nothing; mh__json_finish tells. */
typedef struct mh__json_out {
    mh_buf *buf; /* borrowed; what it held before stays */
    mh_err err;
    bool comma;
} mh__json_out;

static inline mh__json_out mh__json_into(mh_buf *buf) { return (mh__json_out){.buf = buf}; }
void mh__json_open(mh__json_out *o, char bracket);  /* '{' or '[' */
void mh__json_close(mh__json_out *o, char bracket); /* '}' or ']' */
void mh__json_key(mh__json_out *o, const char *key);
void mh__json_key_bytes(mh__json_out *o, mh_bytes key);
void mh__json_add_string(mh__json_out *o, const char *text);
void mh__json_add_bytes(mh__json_out *o, mh_bytes text); /* as a string; bytes that are not UTF-8 become U+FFFD */
void mh__json_add_int(mh__json_out *o, int64_t value);
void mh__json_add_double(mh__json_out *o, double value); /* null for what JSON can't say */
void mh__json_add_bool(mh__json_out *o, bool value);
void mh__json_add_null(mh__json_out *o);
void mh__json_add(mh__json_out *o, mh__json value); /* as it is; null when absent */
MH_NODISCARD mh_err mh__json_finish(const mh__json_out *o);

#endif
