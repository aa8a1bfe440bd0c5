#include "wire/date.h"

#include "base/error.h"

#include <string.h>

enum { DAY_SECONDS = 86400 };

/* Days since 1970-01-01 of a date in the Gregorian calendar, and back: years begin in March, so that the odd day is the last. */
static int64_t days_of(int64_t year, int64_t month, int64_t day)
{
    year -= month <= 2;
    int64_t era = (year >= 0 ? year : year - 399) / 400, of_era = year - era * 400;
    int64_t of_year = (153 * (month + (month > 2 ? -3 : 9)) + 2) / 5 + day - 1;
    return era * 146097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719468;
}

static void date_of(int64_t days, int *year, int *month, int *day)
{
    days += 719468;
    int64_t era = (days >= 0 ? days : days - 146096) / 146097, of_era = days - era * 146097;
    int64_t years = (of_era - of_era / 1460 + of_era / 36524 - of_era / 146096) / 365;
    int64_t of_year = of_era - (365 * years + years / 4 - years / 100), shifted = (5 * of_year + 2) / 153;
    *day = (int)(of_year - (153 * shifted + 2) / 5 + 1);
    *month = (int)(shifted < 10 ? shifted + 3 : shifted - 9);
    *year = (int)(years + era * 400 + (*month <= 2));
}

/* Every message has a date: no printf. */
static void put(char *at, int digits, int value)
{
    while (digits-- > 0) {
        at[digits] = (char)('0' + value % 10);
        value /= 10;
    }
}

void mh__date_write(int64_t unix_ns, char out[MH__DATE_SIZE])
{
    int64_t us = unix_ns / 1000 - (unix_ns % 1000 < 0), day_us = DAY_SECONDS * INT64_C(1000000);
    int64_t days = us / day_us - (us % day_us < 0), left = us - days * day_us;
    int year, month, day, seconds = (int)(left / 1000000);
    date_of(days, &year, &month, &day);
    static const char shape[MH__DATE_SIZE] = "0000-00-00T00:00:00.000000Z";
    memcpy(out, shape, sizeof shape);
    put(out, 4, year);
    put(out + 5, 2, month);
    put(out + 8, 2, day);
    put(out + 11, 2, seconds / 3600);
    put(out + 14, 2, seconds / 60 % 60);
    put(out + 17, 2, seconds % 60);
    put(out + 20, 6, (int)(left % 1000000));
}

/* `digits` digits at *p as a number from low to high; else false. */
static bool take(const char **p, const char *end, int digits, int low, int high, int *out)
{
    int n = 0;
    if (end - *p < digits)
        return false;
    for (int i = 0; i < digits; i++, (*p)++) {
        if (**p < '0' || **p > '9')
            return false;
        n = n * 10 + (**p - '0');
    }
    *out = n;
    return n >= low && n <= high;
}

static bool skip(const char **p, const char *end, const char *any)
{
    if (*p == end || !strchr(any, **p) || !**p)
        return false;
    ++*p;
    return true;
}

static int month_days(int year, int month)
{
    static const int days[] = {31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31};
    bool leap = year % 4 == 0 && (year % 100 != 0 || year % 400 == 0);
    return days[month - 1] + (month == 2 && leap);
}

static bool take_zone(const char **p, const char *end, int *offset_s)
{
    int hours, minutes = 0;
    *offset_s = 0;
    if (*p == end || skip(p, end, "Zz"))
        return true;
    bool west = **p == '-';
    if (!skip(p, end, "+-") || !take(p, end, 2, 0, 23, &hours))
        return false;
    if (*p < end) {
        skip(p, end, ":");
        if (!take(p, end, 2, 0, 59, &minutes))
            return false;
    }
    *offset_s = (west ? -1 : 1) * (hours * 3600 + minutes * 60);
    return true;
}

mh_err mh__date_read(mh_bytes text, int64_t *unix_ns)
{
    const char *p = text.data, *end = p + text.size;
    int year, month, day, hour, minute, second, offset_s;
    int64_t fraction_ns = 0;
    bool ok = p && take(&p, end, 4, 1, 9999, &year) && skip(&p, end, "-") && take(&p, end, 2, 1, 12, &month) &&
              skip(&p, end, "-") && take(&p, end, 2, 1, month_days(year, month), &day) && skip(&p, end, "T ") &&
              take(&p, end, 2, 0, 23, &hour) && skip(&p, end, ":") && take(&p, end, 2, 0, 59, &minute) &&
              skip(&p, end, ":") && take(&p, end, 2, 0, 60, &second);
    if (ok && skip(&p, end, ".,")) {
        int64_t unit = 100000000;
        ok = p < end && *p >= '0' && *p <= '9';
        for (; p < end && *p >= '0' && *p <= '9'; p++, unit /= 10)
            fraction_ns += unit * (*p - '0');
    }
    ok = ok && take_zone(&p, end, &offset_s) && p == end;
    if (!ok)
        return mh__fail(MH_ERR_CORRUPT, "not an ISO 8601 date: \"%.*s\"", (int)(text.size < 40 ? text.size : 40),
                        text.data ? (const char *)text.data : "");
    int64_t days = days_of(year, month, day), seconds = days * DAY_SECONDS + hour * 3600 + minute * 60 + second - offset_s;
    if (__builtin_mul_overflow(seconds, MH_SECOND, unix_ns) || __builtin_add_overflow(*unix_ns, fraction_ns, unix_ns))
        return mh__fail(MH_ERR_CORRUPT, "the year %d is out of range", year);
    return MH_OK;
}
