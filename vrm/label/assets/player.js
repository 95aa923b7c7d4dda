// Two videos that play in step: both start, pause and begin again together; the longer one sets the time.

const APART = 0.12; // seconds from which the follower jumps instead of hurrying

export class Player {
  constructor(left, right, onTime) {
    this.videos = [left, right];
    this.onTime = onTime;
    this.wanted = true;
    this.turn = 0;
    this.restarting = false;
    const tick = () => {
      this.step();
      requestAnimationFrame(tick);
    };
    requestAnimationFrame(tick);
  }

  // Loads two clips and starts them; fails with the video that cannot be played.
  async load(addresses) {
    const turn = ++this.turn;
    this.ready = false;
    const loading = this.videos.map((video, i) => new Promise((resolve, reject) => {
      video.oncanplaythrough = resolve;
      video.onerror = () => reject(video);
      video.src = addresses[i];
      video.load();
    }));
    await Promise.all(loading);
    if (turn !== this.turn) return;
    this.wanted = true;
    this.ready = true;
    await this.restart();
  }

  unload() {
    this.turn += 1;
    this.ready = false;
    for (const video of this.videos) {
      video.oncanplaythrough = video.onerror = null;
      video.removeAttribute("src");
      video.load();
    }
  }

  get longer() {
    const [left, right] = this.videos;
    return left.duration >= right.duration ? left : right;
  }

  async restart() {
    if (!this.ready || this.restarting) return;
    this.restarting = true;
    const turn = this.turn;
    try {
      for (const video of this.videos) video.pause();
      await Promise.all(this.videos.map((video) => seek(video, 0)));
      if (turn === this.turn) await this.resume();
    } finally {
      this.restarting = false;
    }
  }

  async toggle() {
    this.wanted = !this.wanted;
    await this.resume();
  }

  async resume() {
    const unfinished = this.videos.filter((video) => !video.ended);
    if (this.wanted) await Promise.all(unfinished.map((video) => video.play().catch(() => {})));
    else {
      for (const video of this.videos) video.pause();
      const time = this.longer.currentTime;
      for (const video of this.videos) video.currentTime = Math.min(time, video.duration);
    }
  }

  step() {
    if (!this.ready || this.restarting) return;
    const leader = this.longer;
    const follower = this.videos.find((video) => video !== leader);
    this.onTime(leader.currentTime / leader.duration);
    if (leader.ended && this.wanted) {
      this.restart();
    } else if (this.wanted && !follower.ended && !follower.seeking) {
      const ahead = follower.currentTime - leader.currentTime;
      if (Math.abs(ahead) > APART && leader.currentTime < follower.duration) follower.currentTime = leader.currentTime;
      follower.playbackRate = 1 - Math.max(-0.25, Math.min(0.25, ahead * 5));
    }
  }
}

function seek(video, time) {
  if (video.currentTime === time && !video.seeking) return Promise.resolve();
  return new Promise((resolve) => {
    video.addEventListener("seeked", resolve, { once: true });
    video.currentTime = time;
  });
}
