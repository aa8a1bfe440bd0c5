/* Reading and writing of video files with libav. */
#include "motion_state.h"

#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <libavcodec/avcodec.h>
#include <libavformat/avformat.h>
#include <libavutil/imgutils.h>

struct motion_reader {
    AVFormatContext *file;
    AVCodecContext *decoder;
    AVPacket *packet;
    AVFrame *frame;
    motion_size size;
    int stream;
    bool is_drained;
    uint64_t left; /* frames that may still be read */
};

struct motion_writer {
    AVFormatContext *file; /* NULL: only sums */
    AVPacket *packet;
    motion_size size;
    motion_sums sums;
};

/* ---- reading --------------------------------------------------------------------------------- */

static mh_err refuse(const char *path, const char *why)
{
    fprintf(stderr, "motion: %s: %s\n", path, why);
    return MH_ERR_INVALID;
}

static mh_err open_stream(motion_reader *r, const char *path)
{
    const AVCodec *codec = NULL;
    if (avformat_open_input(&r->file, path, NULL, NULL) < 0)
        return refuse(path, "cannot be opened as a video");
    if (avformat_find_stream_info(r->file, NULL) < 0)
        return refuse(path, "has no streams that can be read");
    r->stream = av_find_best_stream(r->file, AVMEDIA_TYPE_VIDEO, -1, -1, &codec, 0);
    if (r->stream < 0 || !codec)
        return refuse(path, "has no video that can be decoded");
    AVStream *stream = r->file->streams[r->stream];
    r->decoder = avcodec_alloc_context3(codec);
    if (!r->decoder || avcodec_parameters_to_context(r->decoder, stream->codecpar) < 0)
        return MH_ERR_NO_MEMORY;
    r->decoder->thread_count = 1; /* the other cores have work */
    if (avcodec_open2(r->decoder, codec, NULL) < 0)
        return refuse(path, "its decoder does not start");
    if (r->decoder->pix_fmt != AV_PIX_FMT_YUV420P)
        return refuse(path, "its pixels are not yuv420p");
    AVRational rate = stream->avg_frame_rate.num > 0 && stream->avg_frame_rate.den > 0 ? stream->avg_frame_rate : (AVRational){25, 1};
    r->size = (motion_size){(uint32_t)r->decoder->width, (uint32_t)r->decoder->height, (uint32_t)rate.num, (uint32_t)rate.den, 0};
    if (r->size.width % 2 || r->size.height % 2 || r->size.width < 16 || r->size.height < 16 || r->size.width > 8192 || r->size.height > 8192)
        return refuse(path, "width and height must be even, and 16 to 8192");
    return MH_OK;
}

mh_err motion_open(motion_reader **out, const char *path, motion_size *size)
{
    *out = NULL;
    av_log_set_level(AV_LOG_ERROR);
    motion_reader *r = calloc(1, sizeof *r);
    if (!r)
        return MH_ERR_NO_MEMORY;
    r->packet = av_packet_alloc();
    r->frame = av_frame_alloc();
    mh_err err = r->packet && r->frame ? open_stream(r, path) : MH_ERR_NO_MEMORY;
    if (err) {
        motion_close(&r);
        return err;
    }
    r->left = UINT64_MAX;
    *size = r->size;
    *out = r;
    return MH_OK;
}

void motion_limit(motion_reader *r, uint64_t frames) { r->left = frames; }

void motion_close(motion_reader **r)
{
    if (!*r)
        return;
    avcodec_free_context(&(*r)->decoder);
    avformat_close_input(&(*r)->file);
    av_packet_free(&(*r)->packet);
    av_frame_free(&(*r)->frame);
    free(*r);
    *r = NULL;
}

/* The next packet of the video, or the end, to the decoder. */
static mh_err feed(motion_reader *r)
{
    while (!r->is_drained) {
        if (av_read_frame(r->file, r->packet) < 0) {
            r->is_drained = true;
            avcodec_send_packet(r->decoder, NULL);
            return MH_OK;
        }
        bool is_ours = r->packet->stream_index == r->stream;
        int sent = is_ours ? avcodec_send_packet(r->decoder, r->packet) : 0;
        av_packet_unref(r->packet);
        if (sent < 0)
            return MH_ERR_CORRUPT;
        if (is_ours)
            return MH_OK;
    }
    return MH_ERR_EMPTY;
}

static mh_err decode(motion_reader *r)
{
    if (r->left == 0)
        return MH_ERR_EMPTY;
    for (;;) {
        int got = avcodec_receive_frame(r->decoder, r->frame);
        r->left -= got == 0;
        if (got == 0)
            return r->frame->width == (int)r->size.width && r->frame->height == (int)r->size.height ? MH_OK : MH_ERR_CORRUPT;
        if (got == AVERROR_EOF)
            return MH_ERR_EMPTY;
        mh_err err = got == AVERROR(EAGAIN) ? feed(r) : MH_ERR_CORRUPT;
        if (err)
            return err;
    }
}

/* The decoder keeps its frame, of which the next are changes; workers draw on this copy. */
static void copy_frame(const motion_reader *r, const motion_header *h, motion_slot *s, uint32_t index)
{
    for (int plane = 0; plane < 3; plane++) {
        int width = (int)(h->size.width >> (plane ? 1 : 0)), height = (int)(h->size.height >> (plane ? 1 : 0));
        av_image_copy_plane(motion_plane(h, s, index, plane), width, r->frame->data[plane], r->frame->linesize[plane], width, height);
    }
}

mh_err motion_read(motion_reader *r, void *memory, uint32_t batch, bool *is_complete)
{
    motion_header *h = memory;
    motion_slot *s = motion_slot_of(h, batch % h->slots);
    if (s->batch != batch) {
        s->batch = batch;
        s->frames = 0;
    }
    mh_err err = s->frames < MOTION_BATCH ? decode(r) : MH_ERR_INVALID;
    if (err == MH_ERR_EMPTY && s->frames > 0) {
        *is_complete = true;
        return MH_OK;
    }
    if (err)
        return err;
    copy_frame(r, h, s, s->frames++);
    av_frame_unref(r->frame);
    *is_complete = s->frames == MOTION_BATCH;
    return MH_OK;
}

/* ---- writing --------------------------------------------------------------------------------- */

static mh_err open_output(motion_writer *w, const char *path)
{
    if (avformat_alloc_output_context2(&w->file, NULL, "avi", path) < 0)
        return MH_ERR_NO_MEMORY;
    AVStream *stream = avformat_new_stream(w->file, NULL);
    if (!stream)
        return MH_ERR_NO_MEMORY;
    w->file->flags |= AVFMT_FLAG_BITEXACT;
    stream->codecpar->codec_type = AVMEDIA_TYPE_VIDEO;
    stream->codecpar->codec_id = AV_CODEC_ID_MPEG4;
    stream->codecpar->width = (int)w->size.width;
    stream->codecpar->height = (int)w->size.height;
    stream->codecpar->format = AV_PIX_FMT_YUV420P;
    stream->time_base = (AVRational){(int)w->size.rate_divisor, (int)w->size.rate};
    if (avio_open(&w->file->pb, path, AVIO_FLAG_WRITE) < 0)
        return refuse(path, "cannot be written");
    return avformat_write_header(w->file, NULL) < 0 ? refuse(path, "the header cannot be written") : MH_OK;
}

static void destroy_writer(motion_writer **w)
{
    if ((*w)->file) {
        avio_closep(&(*w)->file->pb);
        avformat_free_context((*w)->file);
    }
    av_packet_free(&(*w)->packet);
    free(*w);
    *w = NULL;
}

mh_err motion_create(motion_writer **out, const char *path, const motion_size *size)
{
    *out = NULL;
    motion_writer *w = calloc(1, sizeof *w);
    if (!w)
        return MH_ERR_NO_MEMORY;
    w->size = *size;
    w->packet = av_packet_alloc();
    mh_err err = w->packet ? MH_OK : MH_ERR_NO_MEMORY;
    if (!err && path)
        err = open_output(w, path);
    if (err) {
        destroy_writer(&w);
        return err;
    }
    *out = w;
    return MH_OK;
}

static mh_err write_packet(motion_writer *w, const motion_frame *frame, const char *bytes)
{
    if (!w->file)
        return MH_OK;
    if (av_new_packet(w->packet, (int)frame->packet_size) < 0)
        return MH_ERR_NO_MEMORY;
    memcpy(w->packet->data, bytes, frame->packet_size);
    w->packet->flags = frame->is_key ? AV_PKT_FLAG_KEY : 0;
    w->packet->pts = w->packet->dts = (int64_t)w->sums.frames;
    w->packet->duration = 1;
    av_packet_rescale_ts(w->packet, (AVRational){(int)w->size.rate_divisor, (int)w->size.rate}, w->file->streams[0]->time_base);
    int written = av_write_frame(w->file, w->packet);
    av_packet_unref(w->packet);
    return written < 0 ? MH_ERR_SYSTEM : MH_OK;
}

mh_err motion_write(motion_writer *w, mh_bytes finished, void *boxes_file)
{
    const char *at = finished.data, *end = at + finished.size;
    while (at < end) {
        motion_frame frame;
        if ((size_t)(end - at) < sizeof frame)
            return MH_ERR_CORRUPT;
        memcpy(&frame, at, sizeof frame);
        at += sizeof frame;
        size_t boxes_size = (frame.box_count * sizeof(motion_box) + 7) / 8 * 8, packet_size = ((size_t)frame.packet_size + 7) / 8 * 8;
        if (frame.box_count > MOTION_BOXES_MAX || frame.packet_size > INT32_MAX || boxes_size + packet_size > (size_t)(end - at))
            return MH_ERR_CORRUPT;
        for (uint32_t i = 0; i < frame.box_count && boxes_file; i++) {
            motion_box b;
            memcpy(&b, at + i * sizeof b, sizeof b);
            fprintf(boxes_file, "%" PRIu64 ",%u,%u,%u,%u,%u\n", w->sums.frames, b.x, b.y, b.width, b.height, b.area);
        }
        mh_err err = write_packet(w, &frame, at + boxes_size);
        if (err)
            return err;
        w->sums.frames++;
        w->sums.boxes += frame.box_count;
        w->sums.bytes += frame.packet_size;
        w->sums.digest = motion_hash(w->sums.digest, &frame.digest, sizeof frame.digest);
        w->sums.packets = motion_hash(w->sums.packets, at + boxes_size, frame.packet_size);
        at += boxes_size + packet_size;
    }
    return MH_OK;
}

motion_sums motion_sum(const motion_writer *w) { return w->sums; }

mh_err motion_end(motion_writer **w)
{
    mh_err err = (*w)->file && av_write_trailer((*w)->file) < 0 ? MH_ERR_SYSTEM : MH_OK;
    destroy_writer(w);
    return err;
}
