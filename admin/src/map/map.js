// The live map. Everything that others have chosen (names, tags, reasons) becomes text by textContent, and nothing else.
'use strict';
(() => {
  const STATE_MS = 200, LOAD_MS = 1000, SPARKS = 60, EDGES_MAX = 300, FLOWS_MAX = 60, HAPPENED_MAX = 80, GHOST_MS = 12000, MANY = 10;
  // A shape and a word for each state, beside its colour.
  const STATES = {
    ready: ['●', 'ready', 'good'], joining: ['◔', 'joining', 'wait'], checking: ['◑', 'starting', 'wait'], alone: ['◌', 'alone', 'wait'],
    unhealthy: ['◆', 'unhealthy', 'bad'], draining: ['▼', 'draining', 'wait'], left: ['○', 'left', 'rest'], failed: ['✕', 'failed', 'bad'],
  };
  const $ = id => document.getElementById(id);
  const known = state => Object.hasOwn(STATES, state) ? STATES[state] : ['?', String(state), 'rest'];
  const make = (tag, name, text) => {
    const made = document.createElement(tag);
    if (name) made.className = name;
    if (text !== undefined) made.textContent = text;
    return made;
  };
  const draw = (tag, attributes) => {
    const made = document.createElementNS('http://www.w3.org/2000/svg', tag);
    for (const key in attributes) made.setAttribute(key, attributes[key]);
    return made;
  };
  const say = (node, text) => { if (node.textContent !== text) node.textContent = text; };
  const style = (node, name) => { if (node.className !== name) node.className = name; };
  const by = (map, key, fresh) => { if (!map.has(key)) map.set(key, fresh()); return map.get(key); };
  const sum = (all, of) => { let total = 0; for (const one of all) total += of(one); return total; };
  const short = n => n >= 1e6 ? (n / 1e6).toFixed(1) + 'M' : n >= 1e4 ? (n / 1e3).toFixed(0) + 'k' : n >= 1e3 ? (n / 1e3).toFixed(1) + 'k'
    : n >= 10 || n < .05 ? n.toFixed(0) : n.toFixed(1);
  const time = us => us === null ? '–' : us < 1e3 ? us.toFixed(0) + ' µs' : us < 1e4 ? (us / 1e3).toFixed(1) + ' ms' : us < 1e6 ? (us / 1e3).toFixed(0) + ' ms'
    : (us / 1e6).toFixed(1) + ' s';
  const percent = share => share === 0 ? '0 %' : share < .001 ? '< 0.1 %' : (share * 100).toFixed(share < .1 ? 1 : 0) + ' %';
  const clock = ms => new Date(ms).toTimeString().slice(0, 8);
  const natural = new Intl.Collator('en', { numeric: true }).compare;
  const several = (n, word) => n + ' ' + word + (n === 1 ? '' : 's');

  // What X-Request-ID may be.
  const ID = /^[A-Za-z0-9._~:+\/=@-]{1,64}$/;
  let state = null, loads = null, chosen = null, sought = '', isPaused = false, filter = '', newest = 0, answered = performance.now(), before = new Map(), loadedAt = 0;
  const columns = new Map(), tiles = new Map(), flows = new Map(), sparks = new Map(), ghosts = new Map(), heldUp = new Map(), nodes = new Map();
  const NOTHING = { rate: 0, failures: 0, flight: 0, timed: 0, weight: 0, count: 0, out: null, us: null, ejected: false, ways: '' };

  // ---- What is known

  const members = () => {
    const now = Date.now(), all = new Map(state.members.map(m => [m.name, m]));
    for (const [name, ghost] of ghosts) {
      if (all.has(name) || now > ghost.until) ghosts.delete(name); else all.set(name, ghost.member);
    }
    return [...all.values()];
  };
  const address = (m, port) => {
    const host = m.addr.slice(0, m.addr.lastIndexOf(':'));
    return port === undefined ? (m.port ? host + ':' + m.port : host) : host + ':' + port;
  };

  const takeState = next => {
    if (state) {
      const there = new Set(next.members.map(m => m.name));
      for (const m of state.members) {
        if (!there.has(m.name)) {
          // It may have drained and left between two looks.
          const last = next.recent?.findLast(one => one.change?.name === m.name)?.change.state ?? 'left';
          ghosts.set(m.name, { until: Date.now() + GHOST_MS, member: { ...m, state: last } });
        }
      }
    }
    state = next;
    if (next.drain.state === 'draining') heldUp.set(next.node, next.drain.held_up_by);
    // A sidecar that began anew counts anew.
    if ((next.recent?.at(-1)?.number ?? 0) < newest) newest = 0;
    for (const one of next.recent || []) if (one.number > newest) { newest = one.number; note(one); }
  };

  // Differences of totals, by consumer, role and endpoint. A total that has shrunk is that of another process.
  const takeLoads = next => {
    if (next.at_ms === loadedAt) return;
    const seconds = loadedAt ? Math.max(0, next.at_ms - loadedAt) / 1000 : 0, totals = new Map(), roles = new Map();
    const grown = (key, total) => {
      totals.set(key, total);
      const last = before.get(key);
      return last === undefined ? 0 : total >= last ? total - last : total;
    };
    const role = name => by(roles, name, () => ({ requests: 0, failures: 0, answered: 0, errors: 0, times: new Map(), own: new Map(), queued: 0, flight: 0 }));
    for (const flow of flows.values()) flow.seen = false;
    heldUp.clear();
    for (const node of next.nodes) {
      if (node.held_up_by) heldUp.set(node.node, node.held_up_by);
      const member = state.members.find(m => m.name === node.node), own = member && role(member.role);
      for (const load of node.roles) {
        const into = role(load.role), key = JSON.stringify([node.node, load.role]);
        into.queued += load.queued;
        if (own) { own.answered += grown(key + 'a', load.answered); own.errors += grown(key + 'e', load.errors); }
        for (const bound in load.times_us || {}) {
          const more = grown(key + bound, load.times_us[bound]);
          into.times.set(+bound, (into.times.get(+bound) || 0) + more);
          if (own) own.own.set(+bound, (own.own.get(+bound) || 0) + more);
        }
        for (const end of load.endpoints) {
          const flow = by(flows, [node.node, end.node, end.addr, end.instance].join('\n'), () => ({ from: node.node, to: end.node, role: load.role, rate: 0, failures: 0, us: null, path: null, flow: null, last: end }));
          const since = key => end[key] >= flow.last[key] ? end[key] - flow.last[key] : end[key];
          const requests = since('requests'), failures = since('failures'), timed = since('timed'), us = since('timed_us');
          flow.last = end;
          if (seconds) {
            flow.rate = flow.rate * .4 + requests / seconds * .6;
            flow.failures = flow.failures * .6 + failures / seconds * .4;
            if (timed) flow.us = flow.us === null ? us / timed : flow.us * .5 + us / timed * .5;
          }
          Object.assign(flow, { seen: true, flight: end.in_flight, ejected: !!end.ejected });
          into.requests += requests; into.failures += failures; into.flight += end.in_flight;
        }
      }
    }
    for (const [id, flow] of flows) if (!flow.seen) { flow.path?.remove(); flow.flow?.remove(); flows.delete(id); }
    countUp();
    before = totals; loadedAt = next.at_ms; loads = next;
    if (!seconds) return;
    for (const name of sparks.keys()) if (!columns.has(name)) sparks.delete(name);
    const inward = new Set([...flows.values()].map(flow => flow.role));
    for (const name of columns.keys()) {
      const r = role(name), isFirst = !inward.has(name);
      const requests = isFirst ? r.answered : r.requests, failures = isFirst ? r.errors : r.failures;
      const spark = by(sparks, name, () => ({ rate: [], p99: [], errors: [] }));
      const push = (list, value) => { list.push(value); if (list.length > SPARKS) list.shift(); };
      push(spark.rate, requests / seconds); push(spark.p99, quantile(isFirst ? r.own : r.times, .99));
      push(spark.errors, requests ? Math.min(1, failures / requests) : failures ? 1 : 0);
      Object.assign(spark, { isFirst, queued: r.queued, flight: r.flight, failed: failures / seconds });
    }
  };

  const quantile = (times, share) => {
    const total = sum(times.values(), n => n);
    let left = total * share;
    for (const [bound, count] of [...times].sort((a, b) => a[0] - b[0])) if ((left -= count) <= 0 && count) return bound;
    return null;
  };

  // Who sends to whom stands to the left.
  const order = all => {
    const depth = new Map(all.map(m => [m.role, 0])), sides = new Set(), role = new Map(all.map(m => [m.name, m.role]));
    for (let round = 0; round < depth.size; round++) {
      for (const flow of flows.values()) {
        const from = role.get(flow.from);
        if (from === undefined || from === flow.role || !depth.has(flow.role)) continue;
        sides.add(from).add(flow.role);
        depth.set(flow.role, Math.min(depth.size, Math.max(depth.get(flow.role), depth.get(from) + 1)));
      }
    }
    const rank = name => sides.has(name) ? depth.get(name) : 1e6;
    return [...depth.keys()].sort((a, b) => rank(a) - rank(b) || (a < b ? -1 : 1));
  };

  // Of all nodes at once, for there may be thousands of flows.
  const countUp = () => {
    nodes.clear();
    const node = name => by(nodes, name, () => ({ ...NOTHING, asks: new Map(), asked: new Map() })), role = new Map(state.members.map(m => [m.name, m.role]));
    const add = (map, key, flow) => { const way = by(map, key, () => ({ rate: 0, failures: 0 })); way.rate += flow.rate; way.failures += flow.failures; };
    for (const flow of flows.values()) {
      const from = node(flow.from), to = node(flow.to);
      add(from.asks, flow.role, flow); add(to.asked, role.get(flow.from) ?? flow.from, flow);
      from.out = (from.out || 0) + flow.rate;
      to.count++; to.rate += flow.rate; to.failures += flow.failures; to.flight += flow.flight; to.ejected ||= flow.ejected;
      if (flow.us !== null && flow.rate > .05) { to.timed += flow.us * flow.rate; to.weight += flow.rate; }
    }
    // What the lines tell, for where there is no room for them.
    const ways = (arrow, map) => [...map].map(([name, way]) => `${arrow} ${name} ${short(way.rate)}/s${way.failures > .05 ? ` (✕ ${short(way.failures)})` : ''}`);
    for (const one of nodes.values()) {
      if (one.weight) one.us = one.timed / one.weight;
      one.ways = [...ways('←', one.asked), ...ways('→', one.asks)].join(' · ');
    }
  };

  // ---- What is shown

  const spark = (svg, values, top) => {
    const line = svg.firstChild, step = 100 / (SPARKS - 1), max = Math.max(top, ...values.map(v => v || 0));
    line.setAttribute('points', values.map((v, i) => `${(100 - (values.length - 1 - i) * step).toFixed(1)},${(21 - (v || 0) / max * 19).toFixed(1)}`).join(' '));
  };

  const column = name => {
    const box = make('section', 'role'), title = make('h2', '', name), count = make('small'), graphs = make('div', 'graphs'), list = make('ul', 'tiles'), graph = {};
    for (const [key, label] of [['rate', 'requests/s'], ['p99', 'p99'], ['errors', 'errors']]) {
      const part = make('div', key), value = make('b', '', '–'), svg = draw('svg', { viewBox: '0 0 100 22', preserveAspectRatio: 'none', 'aria-hidden': 'true' });
      svg.append(draw('polyline', {}));
      part.append(value, svg, make('span', '', label));
      graphs.append(part);
      graph[key] = { value, svg };
    }
    title.append(' ', count);
    box.append(title, graphs, list);
    box.setAttribute('aria-label', name);
    return { box, count, graphs, list, graph };
  };

  const tile = name => {
    const box = make('button', 'tile'), item = make('li');
    const part = { label: make('span', 'state'), name: make('span', 'name', name), addr: make('span', 'addr'), why: make('span', 'why'), load: make('span', 'load'), ways: make('span', 'ways'), bar: make('span', 'bar'), fill: make('i') };
    part.glyph = make('span'); part.word = make('b');
    part.label.append(part.glyph, ' ', part.word);
    part.bar.append(part.fill);
    box.append(part.label, part.name, part.addr, part.load, part.ways, part.why, part.bar);
    box.type = 'button';
    box.setAttribute('aria-expanded', 'false');
    box.addEventListener('click', () => go(name));
    for (const type of ['mouseenter', 'focus']) box.addEventListener(type, () => light(name));
    for (const type of ['mouseleave', 'blur']) box.addEventListener(type, () => light(null));
    item.append(box);
    return { ...part, box, item, member: null };
  };

  const why = m => {
    if (m.state === 'draining') {
      const waits = heldUp.get(m.name), flying = [...flows.values()].filter(f => f.to === m.name && f.flight > 0);
      if (waits?.length) return 'waits for ' + waits.map(w => { const n = sum(flying.filter(f => f.from === w), f => f.flight); return w + (n ? ` (${n})` : ''); }).join(', ');
      if (flying.length) return 'waits for ' + flying.map(f => `${f.from} (${f.flight})`).join(', ');
      return waits ? 'nobody uses it any more' : 'takes nothing new';
    }
    return m.check || '';
  };

  const show = () => {
    const all = members(), names = order(all), present = new Set(all.map(m => m.name)), groups = new Map(names.map(name => [name, []]));
    let isMoved = false, isFound = false;
    for (const m of all) groups.get(m.role).push(m);
    for (const [name, made] of columns) if (!groups.has(name)) { made.box.remove(); columns.delete(name); isMoved = true; }
    for (const [name, made] of tiles) if (!present.has(name)) { made.item.remove(); tiles.delete(name); isMoved = true; }
    names.forEach((name, position) => {
      const made = by(columns, name, () => column(name)), group = groups.get(name), ready = group.filter(m => m.state === 'ready').length;
      if ($('roles').children[position] !== made.box) { $('roles').insertBefore(made.box, $('roles').children[position] || null); isMoved = true; }
      style(made.box, group.length > MANY ? 'role many' : 'role');
      say(made.count, ready === group.length ? several(group.length, 'node') : `${ready} of ${group.length} ready`);
      group.sort((a, b) => natural(a.name, b.name));
      const stats = new Map(group.map(m => [m.name, nodes.get(m.name) || NOTHING])), top = Math.max(1, ...[...stats.values()].map(l => l.rate));
      const usual = group.map(m => stats.get(m.name).us).filter(us => us !== null).sort((a, b) => a - b), middle = usual[usual.length - 1 >> 1];
      group.forEach((m, place) => {
        const one = by(tiles, m.name, () => tile(m.name)), load = stats.get(m.name);
        if (made.list.children[place] !== one.item) { made.list.insertBefore(one.item, made.list.children[place] || null); isMoved = true; }
        one.member = m; one.stats = load; one.role = name;
        one.isSlow = m.state === 'ready' && usual.length > 2 && load.us > 2000 && load.us > middle * 2.5;
        one.usual = middle;
        const [glyph, word, tone] = known(m.state), because = why(m) || (one.isSlow ? 'slow: others take ' + time(middle) : load.ejected && m.state === 'ready' ? 'spared, it failed' : '');
        // Small tiles have no room for the word beside the name.
        const reason = group.length > MANY && m.state !== 'ready' ? word + (because && ': ' + because) : because;
        const isMatch = !filter || [m.name, m.role, m.addr, ...Object.entries(m.tags || {}).flat()].some(text => String(text).toLowerCase().includes(filter));
        isFound ||= isMatch;
        const look = m.state === 'ready' && (one.isSlow || load.ejected) ? 'wait' : tone;
        say(one.glyph, glyph); say(one.word, word); say(one.addr, address(m));
        say(one.load, load.count ? `${short(load.rate)}/s · ${time(load.us)}` + (load.flight ? ` · ${load.flight} now` : '') : load.out === null ? '' : `sends on ${short(load.out)}/s`);
        one.load.hidden = !load.count && load.out === null;
        say(one.ways, load.ways);
        one.bar.hidden = !load.count;
        if ((one.why.textContent === '') !== (reason === '')) isMoved = true;
        say(one.why, reason);
        one.why.hidden = !reason;
        one.fill.style.transform = `scaleX(${(load.rate / top).toFixed(3)})`;
        style(one.box, `tile ${m.state === 'ready' ? 'ready ' : ''}${look}${isMatch ? '' : ' other'}`);
        const told = `${m.name}, ${m.role}, ${word}${m.state !== 'ready' && because ? ', ' + because : ''}`;
        if (one.told !== told) { one.told = told; one.box.setAttribute('aria-label', told); }
      });
    });
    $('roles').classList.toggle('few', !names.some(name => groups.get(name).length > 6));
    for (const [name, made] of columns) {
      const past = sparks.get(name);
      made.graphs.hidden = !past || !(past.isFirst ? past.rate.some(v => v) : true) && !past.flight;
      if (made.graphs.hidden) continue;
      const last = list => list[list.length - 1];
      say(made.graph.rate.value, short(last(past.rate))); say(made.graph.p99.value, time(last(past.p99))); say(made.graph.errors.value, percent(last(past.errors)));
      made.graph.errors.value.className = last(past.errors) > 0 ? 'bad' : '';
      spark(made.graph.rate.svg, past.rate, 1); spark(made.graph.p99.svg, past.p99, 1); spark(made.graph.errors.svg, past.errors, .01);
    }
    showHeader(all);
    sought = filter && !isFound && ID.test($('find').value.trim()) ? $('find').value.trim() : '';
    showNow(all);
    if (chosen) showDetail();
    if (isMoved) place();
  };

  const showHeader = all => {
    say($('cluster'), state.cluster === 'default' ? 'Concertina' : state.cluster);
    document.title = (state.cluster === 'default' ? 'Concertina' : state.cluster) + ' · ' + state.node;
    const isLost = performance.now() - answered > 2000 && !isPaused;
    $('where').className = isLost ? 'lost' : '';
    say($('where'), isLost ? `⚠ ${state.node} does not answer` : isPaused ? '❚❚ paused' : `as ${state.node} sees it`);
    const live = all.filter(m => m.state !== 'left' && m.state !== 'failed'), first = [...sparks.values()].filter(s => s.isFirst && s.rate.some(v => v));
    const rate = sum(first, s => s.rate[s.rate.length - 1]), p99 = Math.max(...first.map(s => s.p99[s.p99.length - 1] ?? -1), -1);
    const errors = rate ? sum(first, s => s.failed) / rate : 0, sums = [[`${live.filter(m => m.state === 'ready').length}/${live.length}`, 'ready']];
    if (first.length) sums.push([short(rate), 'requests/s'], [time(p99 < 0 ? null : p99), 'p99'], [percent(Math.min(1, errors)), 'errors']);
    while ($('sums').children.length > sums.length) $('sums').lastChild.remove();
    sums.forEach(([value, label], i) => {
      const pair = $('sums').children[i] || $('sums').appendChild(make('div'));
      if (!pair.firstChild) pair.append(make('dt'), make('dd'));
      say(pair.firstChild, label); say(pair.lastChild, value);
      pair.lastChild.className = label === 'errors' && errors > 0 ? 'bad' : '';
    });
  };

  // What a stranger has to know first: what fails, what is slow, what leaves.
  const showNow = all => {
    const news = sought ? [[-1, 'good', `⌕ No node is called so. What became of the request ${sought}?`, null, '?request=' + sought]] : [];
    for (const m of all) {
      const one = tiles.get(m.name), reason = why(m), [glyph, word, tone] = known(m.state);
      if (!one) continue;
      if (tone === 'bad') news.push([0, tone, `${glyph} ${m.name} ${m.state === 'failed' ? 'has failed' : 'is unhealthy'}${reason ? ': ' + reason : ''}`, m.name]);
      else if (m.state === 'draining') news.push([1, tone, `${glyph} ${m.name} is leaving: ${reason}`, m.name]);
      else if (one.isSlow) news.push([2, 'wait', `◷ ${m.name} is slow: ${time(one.stats.us)}, others ${time(one.usual)}`, m.name]);
      else if (m.state === 'ready' && one.stats.ejected) news.push([2, 'wait', `◇ ${m.name} is spared: it failed`, m.name]);
      else if (tone === 'wait') news.push([3, tone, `${glyph} ${m.name} is ${word}`, m.name]);
    }
    for (const [name, s] of sparks) if (s.isFirst && s.failed > 0) news.push([0, 'bad', `✕ ${s.failed < .05 ? '< 0.1' : short(s.failed)} requests/s fail at ${name}`, null, '?failed']);
    for (const [name, s] of sparks) if (s.queued) news.push([1, 'wait', `⧗ ${several(s.queued, 'request')} for ${name} wait`, null]);
    for (const name in loads?.missing || {}) news.push([4, 'rest', `? no load of ${name}: ${loads.missing[name]}`, name]);
    news.sort((a, b) => a[0] - b[0]);
    const shown = news.slice(0, 6);
    if (news.length > 6) shown.push([9, 'rest', `and ${news.length - 6} more`, null]);
    if (!loads && !shown.length) shown.push([9, 'rest', '? No load is known yet.', null]);
    const text = JSON.stringify(shown);
    if ($('now').told === text) return;
    $('now').told = text;
    const focused = document.activeElement?.dataset?.target;
    $('now').replaceChildren(...shown.map(([, tone, words, name, target = name]) => {
      const item = make('li'), box = make('button', tone, words);
      box.type = 'button';
      if (target) { box.dataset.target = target; box.addEventListener('click', () => go(target)); } else box.disabled = true;
      item.append(box);
      return item;
    }));
    if (!shown.length) $('now').append(make('li', 'good', '● All is well: nothing fails, nothing is slow, nothing is leaving.'));
    if (focused) [...$('now').querySelectorAll('button')].find(box => box.dataset.target === focused)?.focus();
  };

  // ---- Edges

  // Where tiles are is read all at once, then everything is written: the browser lays out once.
  const place = () => {
    const frame = $('plane').getBoundingClientRect(), at = new Map();
    for (const [name, one] of tiles) {
      const box = one.box.getBoundingClientRect();
      at.set(name, { left: box.left - frame.left, right: box.right - frame.left, y: box.top - frame.top + Math.min(box.height / 2, 30) });
    }
    const list = [...flows.values()].filter(f => at.has(f.from) && at.has(f.to)).sort((a, b) => b.rate - a.rate);
    const top = Math.max(1, list[0]?.rate || 0), moves = list.length <= FLOWS_MAX, widest = moves ? 8 : 4;
    $('plane').className = moves ? '' : 'dense';
    $('edges').style.setProperty('--dense', Math.min(.38, 3 / Math.sqrt(list.length || 1)).toFixed(2));
    flows.forEach(f => { f.drawn = false; });
    list.slice(0, EDGES_MAX).forEach(f => {
      const a = at.get(f.from), b = at.get(f.to), isBack = b.left < a.right, x1 = isBack ? a.left : a.right, x2 = isBack ? b.right : b.left;
      const bend = (x2 - x1) * .5, d = `M${x1.toFixed()} ${a.y.toFixed()}C${(x1 + bend).toFixed()} ${a.y.toFixed()} ${(x2 - bend).toFixed()} ${b.y.toFixed()} ${x2.toFixed()} ${b.y.toFixed()}`;
      if (!f.path) { f.path = draw('path', { 'data-flow': `${f.from} ${f.to}` }); $('edges').append(f.path); }
      const width = f.rate < .05 ? 1.2 : 1.2 + widest * Math.sqrt(f.rate / top);
      f.drawn = true;
      f.path.setAttribute('d', d);
      f.path.setAttribute('stroke-width', width.toFixed(1));
      f.path.setAttribute('class', (f.failures > .05 ? 'ill ' : f.rate < .05 ? 'idle ' : '') + (lit && (f.from === lit || f.to === lit) ? 'on' : ''));
      if (moves && f.rate >= .05) {
        if (!f.flow) { f.flow = draw('path', { class: 'flow' }); $('edges').append(f.flow); }
        f.flow.setAttribute('d', d);
        f.flow.setAttribute('stroke-width', Math.max(1.6, width * .55).toFixed(1));
      } else { f.flow?.remove(); f.flow = null; }
    });
    for (const f of flows.values()) if (!f.drawn) { f.path?.remove(); f.flow?.remove(); f.path = f.flow = null; }
  };

  let lit = null;
  const light = name => {
    lit = name || chosen;
    $('edges').setAttribute('class', lit && [...flows.values()].some(f => f.from === lit || f.to === lit) ? 'of' : '');
    for (const f of flows.values()) f.path?.classList.toggle('on', f.from === lit || f.to === lit);
  };

  // ---- What happened

  const note = one => {
    const item = make('li'), at = make('time', '', clock(one.at_ms)), words = make('span');
    at.dateTime = new Date(one.at_ms).toISOString();
    if (one.change) {
      const [glyph, word, tone] = known(one.change.state);
      words.append(make('span', tone, glyph), ' ', make('b', '', one.change.name), ` is ${word}`);
      if (one.change.state === 'left' || one.change.state === 'failed') words.lastChild.textContent = ` has ${word}`;
    } else if (one.event) {
      words.append('⚑ ', make('b', '', one.event.name), ` from ${one.event.origin}`);
    } else return;
    item.append(at, words);
    $('events').prepend(item);
    while ($('events').children.length > HAPPENED_MAX) $('events').lastChild.remove();
  };

  // ---- What is opened: a node by its name, `?request=ID`, or `?failed`

  let explained = null, opener = null, target = null;
  const ask = async query => {
    const answer = await fetch('explain?' + query, { signal: AbortSignal.timeout(5000) });
    if (!answer.ok) throw new Error((await answer.text()).slice(0, 300));
    return answer.json();
  };
  // What an answer makes of the panel, unless something else is open by then.
  const fill = (query, take) => {
    const asked = target, then = give => got => { if (target === asked) give(got); };
    ask(query).then(take).catch(error => [make('p', 'wait', `No answer: ${error.message}`)]).then(then(parts => { if (parts) $('facts').replaceChildren(...parts); }));
  };
  const go = to => {
    if (to[0] !== '?' && !tiles.has(to)) return;
    tiles.get(chosen)?.box.setAttribute('aria-expanded', 'false');
    if (!$('detail').contains(document.activeElement)) opener = document.activeElement;
    target = to; chosen = to[0] === '?' ? null : to; explained = null;
    $('detail').hidden = false;
    $('facts').told = '';
    for (const part of ['facts', 'fails']) $(part).replaceChildren();
    if (chosen) {
      opener = tiles.get(to).box;
      opener.setAttribute('aria-expanded', 'true');
      showDetail();
      ask('node=' + encodeURIComponent(to)).then(got => { if (chosen === to) { explained = got; showDetail(); } }).catch(() => {});
      ask('failed').then(got => failures(got, to)).then(rows => {
        if (chosen === to && rows.length) $('fails').replaceChildren(make('h3', '', 'The last requests that failed here'), failedList(rows));
      }).catch(() => {});
    } else if (to === '?failed') {
      say($('who'), 'Requests that failed');
      fill('failed', showFailed);
    } else {
      const id = to.slice(9);
      say($('who'), 'Request ' + id);
      fill('request=' + encodeURIComponent(id), showRequest);
    }
    $('who').focus();
    light(chosen);
    history.replaceState(null, '', '#' + (chosen ? encodeURIComponent(to) : to));
  };
  const close = () => {
    if (!target) return;
    tiles.get(chosen)?.box.setAttribute('aria-expanded', 'false');
    chosen = target = null;
    $('detail').hidden = true;
    history.replaceState(null, '', '#');
    opener?.focus();
    light(null);
  };

  // ---- One request

  // What is told in words. Whatever else a node says is shown as it is.
  const HOP = new Set(['node', 'program', 'id', 'at_us', 'cause', 'client', 'method', 'host', 'path', 'is_cut', 'route', 'role', 'attempts', 'attempts_untold',
    'queue_us', 'connect_us', 'first_byte_us', 'whole_us', 'status', 'end', 'draining', 'draining_untold']);
  const ATTEMPT = new Set(['node', 'addr', 'instance', 'by', 'generation', 'drawn', 'is_reused', 'failure', 'failed_us']);
  const DRAWN = new Set(['node', 'addr', 'in_flight', 'weight', 'grown_percent']);
  const CAUSES = { failed: 'something failed', refused: 'it was refused, or its client went away', sampled: 'it is of the sample' };
  const list = value => Array.isArray(value) ? value : [];
  const title = key => key.replace(/^is_/, '').replace(/_us$/, '').replaceAll('_', ' ');
  const plain = (value, key = '') => typeof value === 'number' && key.endsWith('_us') ? time(value) : value === true ? 'yes' : Array.isArray(value) ? value.map(one => plain(one)).join('; ')
    : value && typeof value === 'object' ? Object.entries(value).filter(([, one]) => one !== null).map(([of, one]) => `${title(of)} ${plain(one, of)}`).join(', ') : String(value);
  const others = (told, known) => Object.entries(told).filter(([key, value]) => !known.has(key) && value !== null && value !== false && !(Array.isArray(value) && !value.length))
    .map(([key, value]) => [title(key), plain(value, key)]);
  const whose = one => `${one.node ?? 'a node without a sidecar'} (${one.program})`;
  const asked = hop => `${hop.method || 'Something'} ${hop.host || ''}${hop.path || ''}${hop.is_cut ? '…' : ''}`;
  const outcome = hop => (hop.status ? `answered with ${hop.status}` : 'not answered') + (hop.end && hop.end !== 'done' ? `, ${hop.end}` : '');

  const story = hop => {
    const tried = list(hop.attempts).map((one, i) => `${i ? 'then ' : ''}${one.node} ${one.failure ? `failed (${one.failure})` : 'had it'}`);
    return `${asked(hop)} was ${outcome(hop)}, after ${time(hop.whole_us ?? null)}. ${tried.length ? tried.join(', ') : 'It was given to nobody'}.`;
  };

  const table = (heads, rows) => {
    const grid = make('table'), head = make('tr');
    for (const word of heads) head.append(make('th', '', word));
    grid.append(head);
    for (const row of rows) { const line = make('tr'); for (const cell of row) line.append(make('td', '', cell)); grid.append(line); }
    return grid;
  };

  const attempt = (one, number) => {
    const box = make('div', 'attempt'), drawn = list(one.drawn), last = drawn.some(d => others(d, DRAWN).length);
    const how = [one.by && 'chosen by ' + one.by, one.is_reused ? 'a kept connection' : 'a new connection', one.generation && 'table generation ' + one.generation].filter(Boolean);
    box.append(make('b', one.failure ? 'bad' : 'good', `${one.failure ? '✕' : '●'} ${number}. ${one.node}`), ` ${one.addr ?? ''}: `);
    box.append(one.failure ? `failed${typeof one.failed_us === 'number' ? ' after ' + time(one.failed_us) : ''}: ${one.failure}` : 'the last', make('p', '', how.join(', ')));
    for (const [key, value] of others(one, ATTEMPT)) box.append(make('p', '', `${key}: ${value}`));
    if (drawn.length) {
      box.append(table(['drawn', 'in flight', 'weight', ...last ? ['more'] : []], drawn.map(d => [`${d.node === one.node ? '● ' : '○ '}${d.node ?? 'gone: ' + d.addr}`,
        String(d.in_flight ?? '–'), `${d.weight ?? '–'}${(d.grown_percent ?? 100) < 100 ? ` (${d.grown_percent} % of it)` : ''}`, ...last ? [plain(Object.fromEntries(others(d, DRAWN)))] : []])));
    }
    return box;
  };

  const showHop = (hop, first) => {
    const box = make('section', 'hop'), facts = make('dl'), later = hop.at_us - first.at_us;
    const fact = (key, value) => { if (value) facts.append(make('dt', '', key), typeof value === 'string' ? make('dd', '', value) : value); };
    box.append(make('h3', '', whose(hop) + (later > 0 ? `, ${time(later)} later` : '')));
    fact('came', new Date(hop.at_us / 1000).toLocaleTimeString() + (hop.client ? ` from ${hop.client}` : ''));
    fact('asked for', asked(hop));
    fact('rule', hop.route ?? (hop.role ? `none: all here is for ${hop.role}` : 'none'));
    fact('role', hop.role);
    const tries = make('dd'), all = list(hop.attempts);
    all.forEach((one, i) => {
      const isLast = i === all.length - 1;
      if (isLast && hop.attempts_untold) tries.append(make('p', '', `… ${hop.attempts_untold} more that failed`));
      tries.append(attempt(one, i + 1 + (isLast ? hop.attempts_untold || 0 : 0)));
    });
    fact('given to', all.length ? tries : 'nobody');
    const leaving = list(hop.draining);
    fact('leaving then', leaving.length ? leaving.join(', ') + (hop.draining_untold ? ` and ${hop.draining_untold} more` : '') : 'nobody');
    const times = [['waited for room', hop.queue_us], ['connected in', hop.connect_us], ['first byte after', hop.first_byte_us], ['in all', hop.whole_us]];
    fact('times', times.filter(([, us]) => typeof us === 'number').map(([what, us]) => `${what} ${time(us)}`).join(', '));
    fact('outcome', outcome(hop));
    for (const [key, value] of others(hop, HOP)) fact(key, value);
    fact('kept because', CAUSES[hop.cause] ?? hop.cause);
    box.append(facts);
    return box;
  };

  // Who keeps what, and how to have more kept.
  const keeping = account => {
    const now = Date.now() * 1000, what = { failed: 'that failed', refused: 'that were refused', sampled: 'of all others, one in 64' };
    const lines = list(account.keepers).map(one => whose(one) + (one.is_nameless
      ? ' keeps nothing: its requests have no ids. Start it with --request-id make (or keep, behind another proxy), or with CONCERTINA_PROXY_REQUEST_ID=make.'
      : ' keeps ' + Object.entries(one.kept || {}).map(([cause, kept]) => `the last ${kept.room} ${what[cause] ?? cause} (all since ${kept.since_us ? time(Math.max(0, now - kept.since_us)) + ' ago' : 'it started'})`).join('; ') + '.'));
    for (const [node, why] of Object.entries(account.missing || {})) lines.push(`${node} ${why}.`);
    return (lines.length ? lines : ['No proxy and no front has answered.']).map(line => make('p', '', line));
  };

  const link = (to, words) => {
    const box = make('button', 'link', words);
    box.type = 'button';
    box.addEventListener('click', () => go(to));
    return box;
  };
  const showRequest = account => {
    const hops = list(account.hops), parts = [];
    if (hops.length) parts.push(make('p', 'story', story(hops[0])), ...hops.map(hop => showHop(hop, hops[0])), ...Object.entries(account.missing || {}).map(([node, why]) => make('p', 'wait', `? ${node} ${why}`)));
    else parts.push(make('p', 'story', 'Nothing is kept of a request of this id: it passed none of these, went well and is not of their samples, or later ones took its place.'), ...keeping(account));
    return [...parts, link('?failed', 'The last requests that failed')];
  };

  // The last ones, or those that passed a node: each once, as its first hop tells it.
  const failures = (account, node) => {
    const first = new Map();
    for (const hop of list(account.hops)) {
      const isOf = !node || hop.node === node || list(hop.attempts).some(one => one.node === node);
      if (hop.id && isOf && !first.has(hop.id)) first.set(hop.id, hop);
    }
    return [...first.values()].sort((a, b) => b.at_us - a.at_us).slice(0, node ? 8 : 24).map(hop => {
      const lost = list(hop.attempts).filter(one => one.failure).map(one => `${one.node}: ${one.failure}`);
      return [hop.id, `${clock(hop.at_us / 1000)}  ${hop.status ?? '–'}  ${asked(hop)}`, [hop.node, hop.end !== 'done' && hop.end, ...lost].filter(Boolean).join(' · ')];
    });
  };
  const failedList = rows => {
    const found = make('ol', 'failed');
    for (const [id, words, why] of rows) {
      const item = make('li'), box = link('?request=' + id, words);
      box.append(make('small', '', why));
      item.append(box);
      found.append(item);
    }
    return found;
  };
  const showFailed = account => {
    const rows = failures(account), again = link('?failed', 'Look again');
    if (rows.length) return [make('p', '', 'The last ones, the newest first. Click one to see why.'), failedList(rows), again];
    return [make('p', 'story', 'No request is known that failed.'), ...keeping(account), again];
  };

  // ---- One node

  const showDetail = () => {
    const one = tiles.get(chosen);
    if (!one) return;
    const m = one.member, [glyph, word] = known(m.state), facts = [['state', `${glyph} ${word}`]], reason = why(m);
    if (reason) facts.push(['because', reason]);
    facts.push(['role', m.role], ['serves at', m.port ? address(m) : 'nowhere'], ['gossips at', m.addr], ['started', new Date(m.instance).toLocaleString()]);
    if (explained) {
      facts.push(['so since', new Date(explained.since_ms).toLocaleTimeString()], ['known by', String(explained.evidence).replace('_', ' ')]);
      if (explained.heard_ms_ago !== null) facts.push(['last heard', time(explained.heard_ms_ago * 1000) + ' before this opened']);
      if (explained.twins.length) facts.push(['twins', explained.twins.map(t => t.addr).join(', ')]);
      if (explained.alone) facts.push(['alone', explained.alone]);
    }
    for (const [key, value] of Object.entries(m.tags || {})) facts.push(['tag', `${key}=${value}`]);
    if (m.routes?.length) facts.push(['routes', m.routes.join('  ')]);
    if (m.protocol) facts.push(['protocol', m.protocol]);
    if (one.stats.count) facts.push(['under way', String(one.stats.flight)]);
    const flowing = (title, list, name) => list.length ? [title, list.sort((a, b) => b.rate - a.rate).slice(0, 50).map(f => [name(f), short(f.rate), f.us === null ? '–' : time(f.us), String(f.flight), short(f.failures)])] : null;
    const all = [...flows.values()], tables = [flowing('Asked by', all.filter(f => f.to === chosen), f => f.from), flowing('Asks', all.filter(f => f.from === chosen), f => f.to)].filter(Boolean);
    const text = JSON.stringify([facts, tables]);
    if ($('facts').told === text) return;
    $('facts').told = text;
    say($('who'), m.name);
    const told = make('dl');
    for (const [key, value] of facts) told.append(make('dt', '', key), make('dd', '', value));
    const parts = [told];
    for (const [title, rows] of tables) parts.push(table([title, 'per s', 'takes', 'now', 'fail/s'], rows));
    if (m.admin_port && m.name !== state.node && /^[\d.]+:\d+$|^\[[\da-f:]+\]:\d+$/i.test(address(m, m.admin_port))) {
      const there = make('a', '', 'The map as this node sees it');
      there.href = `http://${address(m, m.admin_port)}/`;
      there.rel = 'noreferrer';
      parts.push(there);
    }
    $('facts').replaceChildren(...parts);
  };

  // ---- Keys

  const move = (from, key) => {
    const boxes = [...tiles.values()].map(one => ({ one, at: one.box.getBoundingClientRect() })), here = from.getBoundingClientRect();
    const [dx, dy] = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] }[key];
    let best = null, least = Infinity;
    for (const { one, at } of boxes) {
      const x = at.left + at.width / 2 - here.left - here.width / 2, y = at.top + at.height / 2 - here.top - here.height / 2, along = x * dx + y * dy;
      if (along < 4 || dy && Math.abs(x) > here.width) continue;
      const cost = along + 3 * Math.abs(x * dy + y * dx);
      if (cost < least) { least = cost; best = one.box; }
    }
    best?.focus();
  };
  document.addEventListener('keydown', event => {
    const on = document.activeElement;
    if (event.ctrlKey || event.metaKey || event.altKey) return;
    if (event.key === 'Escape') {
      if (target) close(); else if (filter) { $('find').value = filter = ''; show(); }
    } else if (event.key === 'Enter' && on === $('find') && filter) {
      const found = [...tiles.values()].find(one => !one.box.classList.contains('other'));
      if (found) go(found.member.name); else if (sought) go('?request=' + sought);
    } else if (on?.tagName === 'INPUT') return;
    else if (event.key === '/') { event.preventDefault(); $('find').focus(); }
    else if (event.key === 'p') $('pause').click();
    else if (event.key === 'f') go('?failed');
    else if (event.key.startsWith('Arrow') && !$('detail').contains(on)) {
      if (on?.classList.contains('tile')) { event.preventDefault(); move(on, event.key); }
      else if (on === document.body || on === $('map')) { const first = $('roles').querySelector('.tile'); if (first) { event.preventDefault(); first.focus(); } }
    }
  });
  $('close').addEventListener('click', close);
  $('failures').addEventListener('click', () => go('?failed'));
  $('find').addEventListener('input', () => { filter = $('find').value.trim().toLowerCase(); if (state) show(); });
  $('pause').addEventListener('click', () => {
    isPaused = !isPaused;
    $('pause').setAttribute('aria-pressed', String(isPaused));
    say($('pause'), isPaused ? 'Go on' : 'Pause');
    if (state) show();
  });
  new ResizeObserver(() => { if (state) place(); }).observe($('plane'));

  // ---- News. A hidden page asks nothing.

  const poll = async (path, pause, take) => {
    for (;;) {
      const begun = performance.now();
      if (!document.hidden && !isPaused) {
        let next = null;
        try {
          const answer = await fetch(path, { signal: AbortSignal.timeout(3000) });
          if (answer.ok) next = await answer.json();
        } catch { /* The header says so. */ }
        try {
          if (next) { answered = performance.now(); if (!isPaused) take(next); }
          if (state) show();
        } catch (error) { console.error(error); }
      }
      await new Promise(done => setTimeout(done, Math.max(20, pause - (performance.now() - begun))));
    }
  };
  for (const [glyph, word] of [STATES.ready, STATES.checking, STATES.draining, STATES.unhealthy, STATES.failed]) $('legend').append(make('span', '', `${glyph} ${word}`));
  $('legend').append(make('span', 'wide', '━ as thick as its traffic'), make('span', 'wide', '╍ requests fail'), make('span', 'narrow', '→ sends requests there'), make('span', 'narrow', '← has them from there'),
    make('span', 'narrow', '✕ of which fail'), make('span', 'wide', 'Arrow keys move, Enter opens, Esc closes, / finds a node or a request, f shows what failed, p pauses'));
  // An address with a node's name behind the # opens that, or `?request=ID`, or `?failed`.
  let first = '';
  try { first = decodeURIComponent(location.hash.slice(1)); } catch { /* Not one of ours. */ }
  poll('state', STATE_MS, next => { takeState(next); if (first) { show(); go(first); first = ''; } });
  poll('load', LOAD_MS, next => { if (state) { takeLoads(next); place(); light(lit === chosen ? null : lit); } });
})();
