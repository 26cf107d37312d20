// Ages that move, charts, and the focus kept when a part of the page is drawn anew. No library, no outside request.
(() => {
  'use strict';
  const zooms = new Map();   // chart -> [first step, last step]; it survives every update of the page
  const drawn = new WeakMap();
  let focused = '';

  const span = (seconds) => {
    if (seconds < 5) return 'just now';
    if (seconds < 90) return `${Math.round(seconds)} s ago`;
    if (seconds < 5400) return `${Math.round(seconds / 60)} min ago`;
    if (seconds < 172800) return `${Math.round(seconds / 3600)} h ago`;
    return `${Math.round(seconds / 86400)} days ago`;
  };
  const ages = () => document.querySelectorAll('time.ago').forEach((one) => {
    const moment = new Date(one.getAttribute('datetime'));
    if (Number.isNaN(moment.getTime())) return;
    const said = span(Math.max(0, (Date.now() - moment) / 1000));
    if (one.textContent !== said) { one.textContent = said; one.title = moment.toLocaleString(); }
  });

  const short = (value) => {
    if (value === 0) return '0';
    const size = Math.abs(value);
    if (size < 0.001 || size >= 1e6) return value.toExponential(1);
    return size < 1 ? value.toFixed(4) : size < 100 ? value.toFixed(2) : value.toFixed(0);
  };
  const ticks = (low, high, about) => {
    const raw = (high - low) / about || 1, power = 10 ** Math.floor(Math.log10(raw));
    const step = [1, 2, 5, 10].map((one) => one * power).find((one) => one >= raw);
    const found = [];
    for (let at = Math.ceil(low / step) * step; at <= high + step * 1e-9; at += step) found.push(at);
    return found;
  };
  const SVG = 'http://www.w3.org/2000/svg';
  const make = (name, attributes, parent, text) => {
    const one = document.createElementNS(SVG, name);
    for (const [key, value] of Object.entries(attributes)) one.setAttribute(key, value);
    if (text !== undefined) one.textContent = text;
    parent.appendChild(one);
    return one;
  };

  function draw(figure) {
    const plot = figure.querySelector('.plot'), key = figure.dataset.chart;
    const data = JSON.parse(figure.dataset.points), width = plot.clientWidth, height = plot.clientHeight;
    if (!width) return;
    drawn.set(figure, figure.dataset.points + width);
    let read = figure.querySelector('.read');
    if (!read) {
      read = document.createElement('span'); read.className = 'read';
      figure.querySelector('figcaption').appendChild(read);
    }
    plot.replaceChildren();
    const svg = make('svg', {viewBox: `0 0 ${width} ${height}`}, plot);
    const all = data.lines.flatMap((line) => line.points);
    if (!all.length) return;
    const zoom = zooms.get(key);
    const left = 52, right = 8, top = 10, bottom = 22;
    const first = zoom ? zoom[0] : Math.min(...all.map((one) => one[0]));
    const last = zoom ? zoom[1] : Math.max(...all.map((one) => one[0]), first + 1);
    const seen = all.filter((one) => one[0] >= first && one[0] <= last).map((one) => one[1]);
    let low = Math.min(...seen), high = Math.max(...seen);
    if (!seen.length) { low = 0; high = 1; }
    const room = (high - low) * 0.06 || Math.abs(high) * 0.1 || 1;
    high += room; low = low >= 0 && low - room < 0 ? 0 : low - room;
    const x = (step) => left + (step - first) / (last - first) * (width - left - right);
    const y = (value) => top + (high - value) / (high - low) * (height - top - bottom);
    for (const value of ticks(low, high, 5)) {
      make('line', {class: 'grid', x1: left, x2: width - right, y1: y(value), y2: y(value)}, svg);
      make('text', {x: left - 6, y: y(value) + 4, 'text-anchor': 'end'}, svg, short(value));
    }
    for (const step of ticks(first, last, Math.max(2, width / 110))) {
      if (step % 1) continue;
      make('text', {x: x(step), y: height - 6, 'text-anchor': 'middle'}, svg, step.toLocaleString());
    }
    const clip = `clip-${key.replace(/[^a-z0-9]/gi, '')}`;
    const box = make('clipPath', {id: clip}, make('defs', {}, svg));
    make('rect', {x: left, y: top - 6, width: width - left - right, height: height - top - bottom + 12}, box);
    const inner = make('g', {'clip-path': `url(#${clip})`}, svg);
    for (const mark of data.marks || []) {
      const line = make('line', {class: 'mark', x1: x(mark.step), x2: x(mark.step), y1: top, y2: height - bottom}, inner);
      make('title', {}, line, mark.text);
    }
    for (const line of data.lines) {
      const path = line.points.map((one, place) => `${place ? 'L' : 'M'}${x(one[0]).toFixed(1)} ${y(one[1]).toFixed(1)}`);
      if (path.length) make('path', {class: line.style, d: path.join('')}, inner);
    }
    const cursor = make('line', {class: 'cursor', y1: top, y2: height - bottom, visibility: 'hidden'}, svg);
    const pick = make('rect', {class: 'pick', y: top, height: height - top - bottom, visibility: 'hidden'}, svg);
    const named = data.lines.filter((line) => line.style !== 'lost' && line.points.length);
    const say = (step) => {
      const parts = named.map((line) => {
        const near = line.points.reduce((best, one) => Math.abs(one[0] - step) < Math.abs(best[0] - step) ? one : best);
        return `${line.name} ${short(near[1])}`;
      });
      const mark = (data.marks || []).find((one) => Math.abs(x(one.step) - x(step)) < 5);
      read.textContent = `step ${Math.round(step).toLocaleString()}: ${parts.join('  ')}${mark ? '  ' + mark.text : ''}`;
    };
    const rest = () => {
      const end = named.map((line) => `${line.name} ${short(line.points[line.points.length - 1][1])}`);
      read.textContent = zoom ? `steps ${first.toLocaleString()} to ${last.toLocaleString()}; double click shows all` : end.join('  ');
      cursor.setAttribute('visibility', 'hidden');
    };
    rest();
    const stepAt = (event) => {
      const part = (event.clientX - plot.getBoundingClientRect().left - left) / (width - left - right);
      return Math.round(first + Math.min(1, Math.max(0, part)) * (last - first));
    };
    let begun = null;
    plot.onpointermove = (event) => {
      const step = stepAt(event);
      cursor.setAttribute('visibility', 'visible');
      cursor.setAttribute('x1', x(step)); cursor.setAttribute('x2', x(step));
      if (begun !== null) {
        pick.setAttribute('visibility', 'visible');
        pick.setAttribute('x', x(Math.min(begun, step)));
        pick.setAttribute('width', Math.abs(x(step) - x(begun)));
      }
      say(step);
    };
    plot.onpointerdown = (event) => { if (event.pointerType === 'mouse' && event.button === 0) begun = stepAt(event); };
    plot.onpointerup = (event) => {
      const end = stepAt(event), from = begun;
      begun = null;
      pick.setAttribute('visibility', 'hidden');
      if (from !== null && Math.abs(x(end) - x(from)) > 8) {
        zooms.set(key, [Math.min(from, end), Math.max(from, end)]);
        draw(figure);
      }
    };
    plot.onpointerleave = () => { begun = null; pick.setAttribute('visibility', 'hidden'); rest(); };
    plot.ondblclick = () => { zooms.delete(key); draw(figure); };
    plot.onkeydown = (event) => {
      const width_ = last - first;
      if (event.key === '+') zooms.set(key, [Math.round(first + width_ / 4), Math.round(last - width_ / 4)]);
      else if (event.key === '-' || event.key === 'Escape') zooms.delete(key);
      else if (zoom && event.key === 'ArrowLeft') zooms.set(key, [Math.round(first - width_ / 4), Math.round(last - width_ / 4)]);
      else if (zoom && event.key === 'ArrowRight') zooms.set(key, [Math.round(first + width_ / 4), Math.round(last + width_ / 4)]);
      else return;
      event.preventDefault();
      draw(figure);
    };
  }

  // Runs that are chosen for the page Compare: kept here, for the list is drawn anew all the time.
  const picked = new Set();
  const picks = () => {
    document.querySelectorAll('input[data-pick]').forEach((one) => { one.checked = picked.has(one.dataset.pick); });
    const link = document.querySelector('a[data-compare]');
    if (!link) return;
    const said = picked.size ? `Compare ${picked.size}` : 'Compare';
    if (link.textContent === said) return;
    link.textContent = said;
    link.href = 'compare' + (picked.size ? '?' + [...picked].map((home) => 'home=' + encodeURIComponent(home)).join('&') : '');
  };
  document.addEventListener('change', (event) => {
    const home = event.target.dataset ? event.target.dataset.pick : undefined;
    if (home === undefined) return;
    if (event.target.checked) picked.add(home); else picked.delete(home);
    picks();
  });

  const refresh = () => {
    ages();
    picks();
    document.querySelectorAll('figure.chart').forEach((figure) => {
      const plot = figure.querySelector('.plot');
      if (plot && plot.clientWidth && drawn.get(figure) !== figure.dataset.points + plot.clientWidth) draw(figure);
    });
    if (focused && document.activeElement === document.body) {
      const again = [...document.querySelectorAll('[data-key]')].find((one) => one.dataset.key === focused);
      if (again) again.focus({preventScroll: true});
    }
  };
  document.addEventListener('focusin', (event) => { focused = event.target.dataset ? event.target.dataset.key || '' : ''; });
  document.addEventListener('pointerdown', (event) => { if (!event.target.closest('[data-key]')) focused = ''; });
  let waits = false;
  const later = () => { if (!waits) { waits = true; requestAnimationFrame(() => { waits = false; refresh(); }); } };
  const begin = () => {
    new MutationObserver(later).observe(document.body, {childList: true, subtree: true, attributes: true, attributeFilter: ['data-points', 'datetime', 'class', 'style']});
    window.addEventListener('resize', later);
    setInterval(ages, 1000);
    later();
  };
  if (document.body) begin(); else document.addEventListener('DOMContentLoaded', begin);
})();
