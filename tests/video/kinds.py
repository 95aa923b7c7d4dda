"""Every kind of clip, and how ffmpeg makes it."""

H264 = ("-c:v", "libx264", "-pix_fmt", "yuv420p", "-preset", "veryfast")
H265 = ("-c:v", "libx265", "-pix_fmt", "yuv420p", "-preset", "ultrafast")
VP9 = ("-c:v", "libvpx-vp9", "-pix_fmt", "yuv420p", "-deadline", "realtime", "-cpu-used", "8", "-g", "20")
VARIABLE = "select='lt(n,30)+gte(n,30)*lt(n,60)*not(mod(n,5))+gte(n,60)*not(mod(n,2))'"

# name of the file: what to tell ffmpeg, and how many frames of which (height, width)
CLIPS = {
    "long_gop.mp4": ((*H264, "-g", "999", "-sc_threshold", "0"), 100, (64, 64)),
    "short_gop.mp4": ((*H264, "-g", "8", "-bf", "2"), 100, (64, 64)),
    "tiny_gop.mp4": ((*H264, "-g", "2", "-bf", "1"), 60, (64, 64)),
    "all_intra.mp4": ((*H264, "-g", "1"), 60, (64, 64)),
    "open_gop.mp4": ((*H264, "-x264-params", "open-gop=1:keyint=24:min-keyint=24:bframes=3"), 100, (64, 64)),
    "open_gop.ts": ((*H264, "-x264-params", "open-gop=1:keyint=24:min-keyint=24:bframes=3"), 100, (64, 64)),
    "intra_refresh.mkv": ((*H264, "-x264-params", "intra-refresh=1:keyint=30:bframes=0"), 100, (64, 64)),
    "h265.mp4": ((*H265, "-x265-params", "log-level=error:keyint=20:open-gop=0"), 60, (64, 64)),
    "h265_open_gop.mp4": ((*H265, "-x265-params", "log-level=error:keyint=20:open-gop=1:bframes=4"), 60, (64, 64)),
    "ten_bit.mp4": ((*H265, "-pix_fmt", "yuv420p10le", "-x265-params", "log-level=error"), 40, (64, 64)),
    "vp8.webm": (("-c:v", "libvpx", "-g", "40", "-auto-alt-ref", "1", "-lag-in-frames", "16"), 60, (64, 64)),
    "vp9.webm": (VP9, 60, (64, 64)),
    "vp9.mp4": (VP9, 60, (64, 64)),
    "av1.mp4": (("-c:v", "libsvtav1", "-preset", "12", "-g", "20"), 40, (64, 64)),
    "mpeg4.avi": (("-c:v", "mpeg4", "-bf", "2", "-g", "12"), 60, (64, 64)),
    "mpeg2.mpg": (("-c:v", "mpeg2video", "-g", "12", "-bf", "2"), 60, (64, 64)),
    "mjpeg.mov": (("-c:v", "mjpeg", "-pix_fmt", "yuvj420p"), 60, (64, 64)),
    "h264.mkv": ((*H264, "-g", "24"), 100, (64, 64)),
    "h264.flv": ((*H264, "-g", "12"), 60, (64, 64)),
    "h264.ts": ((*H264, "-g", "24"), 100, (64, 64)),
    "raw.h264": ((*H264, "-g", "24"), 40, (64, 64)),
    "fragments.mp4": ((*H264, "-g", "24", "-movflags", "frag_keyframe+empty_moov"), 100, (64, 64)),
    "interlaced.mp4": ((*H264, "-flags", "+ilme+ildct", "-x264-params", "tff=1:keyint=20"), 60, (64, 64)),
    "animation.gif": ((), 40, (64, 64)),
    "variable_rate.mp4": (("-vf", VARIABLE, "-fps_mode", "vfr", *H264, "-g", "24"), 100, (64, 64)),
    "odd_444.mp4": ((*H264, "-pix_fmt", "yuv444p"), 40, (63, 65)),
    "odd_420.mkv": (("-c:v", "ffv1", "-pix_fmt", "yuv420p"), 40, (63, 65)),
    "alpha.webm": (("-vf", "format=yuva420p", "-c:v", "libvpx-vp9", "-cpu-used", "8"), 20, (64, 64)),
    "one_frame.mp4": (H264, 1, (64, 64)),
    "two_frames.mp4": (H264, 2, (64, 64)),
}
MADE_OF_OTHERS = {
    "rotated.mp4": ("long_gop.mp4", ("-display_rotation", "90"), ("-c", "copy")),
    "cut.mp4": ("one_gop.mp4", ("-ss", "4.37"), ("-t", "3", "-c", "copy")),
    "cut_open_gop.mkv": ("open_gop.mp4", ("-ss", "1.3"), ("-c", "copy")),
    "cut_open_gop.mp4": ("open_gop.mp4", ("-ss", "1.3"), ("-c", "copy")),
}
GOOD = sorted({*CLIPS, *MADE_OF_OTHERS})
