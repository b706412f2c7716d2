(async () => {
  const live = document.getElementById('live');
  const pause = (ms) => new Promise((done) => setTimeout(done, ms));
  let revision = document.body.dataset.revision;
  const refresh = async () => {
    const answer = await fetch(location.pathname + location.search);
    if (!answer.ok) throw new Error(answer.status);
    // The policy of this page is against the style of another; only the parts are wanted.
    const parts = (await answer.text()).replace(/<(style|script)\b[^]*?<\/\1>/g, '');
    const page = new DOMParser().parseFromString(parts, 'text/html');
    for (const part of document.querySelectorAll('[data-live]')) {
      const fresh = page.getElementById(part.id);
      // What somebody is about to press stays where it is.
      if (!fresh || part.contains(document.activeElement)) continue;
      const open = [...part.querySelectorAll('details')].map((it) => it.open);
      const placed = document.importNode(fresh, true);
      placed.querySelectorAll('details').forEach((it, at) => { it.open = open[at] || false; });
      part.replaceWith(placed);
    }
  };
  live.textContent = 'live';
  live.className = 'live on';
  for (;;) {
    try {
      if (!document.hidden) {
        const answer = await fetch('/debug/revision?after=' + revision);
        if (!answer.ok) throw new Error(answer.status);
        revision = (await answer.json()).revision;
        await refresh();
      }
      if (live.textContent !== 'live') live.textContent = 'live';
      live.className = 'live on';
      await pause(1000);
    } catch (error) {
      live.textContent = 'The server does not answer. Trying again…';
      live.className = 'live off';
      await pause(3000);
    }
  }
})();
