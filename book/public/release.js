// A release to play with: one of them as a picture, thousands of them as numbers. The statistics are those of
// rlcourse/release/sequential.py and matching.py; whatever they are tuned by was computed there and stands in the page.
"use strict";

(() => {
  const RELEASES = 2000;
  const NAMES = {
    "10@0": "10 % dearer", "10@10": "dearer from day 11", "5@0": "5 % dearer", "0@0": "the same", "-5@0": "5 % cheaper",
  };

  // Statistics: pure functions.

  /** How far a sum of this variance may ever stray from its mean (Robbins 1970). */
  function normalMixture(variance, alpha, rho) {
    return Math.sqrt((variance + rho) * Math.log((variance + rho) / (rho * alpha * alpha)));
  }

  /** Half the width of the interval for a difference whose estimate has the variance 1 / information. */
  function contrastRadius(information, alpha, rho) {
    return information > 0 ? normalMixture(information, alpha, rho) / information : Infinity;
  }

  /** Numbers from 0 up to 1, the same for the same seed (mulberry32). */
  function uniforms(seed) {
    let state = seed >>> 0;
    return () => {
      state = (state + 0x6d2b79f5) >>> 0;
      let mixed = Math.imul(state ^ (state >>> 15), state | 1);
      mixed ^= mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61);
      return ((mixed ^ (mixed >>> 14)) >>> 0) / 4294967296;
    };
  }

  /** Standard normal numbers (Box and Muller 1958). */
  function normals(seed) {
    const uniform = uniforms(seed);
    let kept = null;
    return () => {
      if (kept !== null) { const one = kept; kept = null; return one; }
      const radius = Math.sqrt(-2 * Math.log(1 - uniform())), angle = 2 * Math.PI * uniform();
      kept = radius * Math.sin(angle);
      return radius * Math.cos(angle);
    };
  }

  /** Rooms of the canary: the nearest whole number, but one of each arm at least. */
  function armSize(fleet, share) {
    return Math.min(Math.max(Math.round(fleet * share), 1), fleet - 1);
  }

  /**
   * One release, up to the day on which it goes back or to the last one. The new policy is another one from the day after
   * settings.since on. Of what was seen, the last settings.window days count; 0, and the confidence sequence, take all.
   * Returns {day: 0 if it never went back, harm: extra cost until then, days: [...] if it is to be drawn}.
   */
  function release(constants, settings, normal, drawn) {
    const { fleet, cost, sdRaw, sdLeft, fewest } = constants;
    const { rule, every, adjusted, limit, since } = settings, { alpha, rho, z } = constants.levels[settings.level];
    const window = rule === "always" ? 0 : settings.window;
    const canary = armSize(fleet, settings.share), others = fleet - canary;
    const weather = Math.sqrt(sdRaw ** 2 - sdLeft ** 2), sd = adjusted ? sdLeft : sdRaw;
    const daily = 1 / (sd ** 2 / canary + sd ** 2 / others);
    const days = [], kept = [];
    let sum = 0, harm = 0;
    for (let day = 1; day <= constants.days; day += 1) {
      const extra = day > since ? cost * settings.effect : 0;
      const left = extra + (sdLeft * normal()) / Math.sqrt(canary), leftOther = (sdLeft * normal()) / Math.sqrt(others);
      const theirs = cost + left + (weather * normal()) / Math.sqrt(canary);
      const ours = cost + leftOther + (weather * normal()) / Math.sqrt(others);
      const seen = rule === "threshold" ? theirs - cost : adjusted ? left - leftOther : theirs - ours;
      kept.push(seen);
      sum += seen;
      if (window && kept.length > window) sum -= kept.shift();
      harm += canary * extra;
      const information = kept.length * daily, looked = day % every === 0, estimate = sum / kept.length;
      let radius = Infinity;
      if (rule === "threshold") {
        radius = limit * cost;
      } else if (canary * day >= fewest) {
        radius = rule === "always" ? contrastRadius(information, alpha, rho) : z / Math.sqrt(information);
      }
      if (drawn) days.push({ day, theirs, ours, estimate, radius, looked });
      if (looked && estimate > radius) return { day, harm, days };
    }
    return { day: 0, harm, days };
  }

  /** Many releases: the share that went back, the median day of those, and the mean extra cost. */
  function many(constants, settings, count, seed) {
    const normal = normals(seed), backs = [];
    let harm = 0;
    for (let i = 0; i < count; i += 1) {
      const one = release(constants, settings, normal, false);
      harm += one.harm;
      if (one.day) backs.push(one.day);
    }
    backs.sort((a, b) => a - b);
    return { back: backs.length / count, day: backs.length ? backs[Math.floor(backs.length / 2)] : 0, harm: harm / count };
  }

  /** The largest relative error against the radii that the package computed. */
  function disagreement(constants) {
    return Math.max(...constants.checks.map(({ alpha, information, radius }) => {
      const { rho } = constants.levels.find((level) => level.alpha === alpha);
      return Math.abs(contrastRadius(information, alpha, rho) / radius - 1);
    }));
  }

  // For the test that holds these numbers against the package's.
  window.rlcRelease = { contrastRadius, release, many, normals, disagreement };

  // Drawing.

  const SPACE = "http://www.w3.org/2000/svg";
  const WIDTH = 560, HEIGHT = 452, LEFT = 66, RIGHT = 540, UPPER = [40, 190], LOWER = [252, 402];

  function element(tag, attributes, text) {
    const made = document.createElementNS(SPACE, tag);
    for (const [name, value] of Object.entries(attributes)) made.setAttribute(name, value);
    if (text !== undefined) made.textContent = text;
    return made;
  }

  function signed(value, digits = 0) {
    const rounded = Math.abs(value).toLocaleString("en", { maximumFractionDigits: digits, minimumFractionDigits: digits });
    return Number(rounded.replaceAll(",", "")) === 0 ? rounded : (value < 0 ? "−" : "+") + rounded;
  }

  function picture(constants, settings, found, shown) {
    const svg = element("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", "font-family": "inherit", "font-size": 19 });
    const days = found.days.slice(0, shown), reach = settings.adjusted && settings.rule !== "threshold" ? 9 : 16;
    const x = (day) => LEFT + ((RIGHT - LEFT) * day) / constants.days;
    const scale = ([top, bottom], low, high) => (value) =>
      bottom - ((bottom - top) * (Math.min(Math.max(value, low), high) - low)) / (high - low);
    const above = scale(UPPER, constants.cost - 18, constants.cost + 22), below = scale(LOWER, -reach, reach);
    const ink = { fill: "currentColor" };
    const add = (tag, attributes, text) => svg.append(element(tag, attributes, text));
    const path = (points) => points.map(([a, b], i) => `${i ? "L" : "M"}${a.toFixed(1)} ${b.toFixed(1)}`).join(" ");

    add("text", { ...ink, x: 8, y: 22 }, "cost of a room, EUR a day");
    add("text", { ...ink, x: 8, y: 234 },
      settings.rule === "threshold" ? `canary above usual, ${span(settings)}` :
        `difference, ${span(settings)}, and how sure it is`);
    for (const [frame, y, ticks] of [[UPPER, above, [30, 40, 50, 60]], [LOWER, below, [-reach, 0, reach]]]) {
      for (const tick of ticks) {
        add("path", { d: `M${LEFT} ${y(tick)} H${RIGHT}`, stroke: "currentColor", "stroke-opacity": 0.2, fill: "none" });
        add("text", { ...ink, x: LEFT - 8, y: y(tick) + 6, "text-anchor": "end" }, frame === LOWER ? signed(tick) : tick);
      }
    }
    add("path", { d: `M${LEFT} ${below(0)} H${RIGHT}`, stroke: "currentColor", "stroke-width": 1.5, fill: "none" });
    for (let day = 0; day <= constants.days; day += 5) {
      add("text", { ...ink, x: x(day), y: LOWER[1] + 22, "text-anchor": "middle" }, day);
    }
    add("text", { ...ink, x: (LEFT + RIGHT) / 2, y: HEIGHT - 6, "text-anchor": "middle" }, "day");

    const line = (points, colour, more) =>
      add("path", { d: path(points), stroke: `var(--rlc-${colour})`, "stroke-width": 2.5, fill: "none", ...more });
    line(days.map((d) => [x(d.day), above(d.ours)]), "blue");
    line(days.map((d) => [x(d.day), above(d.theirs)]), "orange");
    add("text", { x: RIGHT, y: 22, "text-anchor": "end", fill: "var(--rlc-orange)", "font-weight": 600 }, "canary");
    add("text", { x: RIGHT - 78, y: 22, "text-anchor": "end", fill: "var(--rlc-blue)", "font-weight": 600 }, "incumbent");

    if (settings.rule === "threshold") {
      line([[LEFT, below(settings.limit * constants.cost)], [RIGHT, below(settings.limit * constants.cost)]], "red",
        { "stroke-dasharray": "6 5" });
    } else {
      const sure = days.filter((d) => Number.isFinite(d.radius));
      const band = [...sure.map((d) => [x(d.day), below(d.estimate + d.radius)]),
        ...sure.reverse().map((d) => [x(d.day), below(d.estimate - d.radius)])];
      if (band.length) {
        add("path", { d: `${path(band)} Z`, fill: "var(--rlc-orange)", "fill-opacity": 0.25, stroke: "var(--rlc-orange)",
          "stroke-width": 1.5 });
      }
    }
    line(days.map((d) => [x(d.day), below(d.estimate)]), "orange");
    for (const d of days.filter((one) => one.looked)) {
      add("circle", { cx: x(d.day), cy: below(d.estimate), r: 3.5, fill: "var(--rlc-orange)" });
    }
    if (found.day && shown >= found.day) {
      for (const [top, bottom] of [UPPER, LOWER]) {
        add("path", { d: `M${x(found.day)} ${top} V${bottom}`, stroke: "var(--rlc-red)", "stroke-width": 3, fill: "none" });
      }
      const late = found.day > constants.days / 2;
      add("text", { x: x(found.day) + (late ? -8 : 8), y: UPPER[1] + 6, fill: "var(--rlc-red)", "font-weight": 600,
        "text-anchor": late ? "end" : "start" }, `back on day ${found.day}`);
    }
    svg.setAttribute("aria-label", `Two panels over ${days.length} days. Above, the daily cost of a room in the canary and in ` +
      "the rest of the fleet. Below, what the rule looks at. The sentence below says how it ended.");
    return svg;
  }

  /** Which days a look takes together. */
  function span({ rule, window }) {
    if (rule === "always" || window === 0) return "all days so far";
    return window === 1 ? "the last day" : `the last ${window} days`;
  }

  function sentence(constants, settings, found) {
    const rooms = armSize(constants.fleet, settings.share), plural = rooms === 1 ? "room" : "rooms";
    const bill = found.harm === 0 ? "It cost nothing extra." :
      `${settings.effect > 0 ? "Extra cost" : "Saved"}: ${signed(Math.abs(found.harm)).slice(1)} EUR.`;
    if (!found.day) return `${rooms} ${plural} for ${constants.days} days, and it was not rolled back. ${bill}`;
    const wrong = settings.effect <= 0 ? " That was wrong." :
      found.day <= settings.since ? " That was wrong: it was not dearer yet." : "";
    return `Rolled back on day ${found.day}, after ${rooms * found.day} room-days of the new policy.${wrong} ${bill}`;
  }

  function row(name, found, harmless) {
    const cells = [name, `${(100 * found.back).toFixed(1)} %${harmless ? " (wrongly)" : ""}`, found.day || "–",
      `${signed(found.harm)} EUR`];
    const line = document.createElement("tr");
    cells.forEach((text, n) => {
      const cell = document.createElement(n ? "td" : "th");
      if (!n) cell.scope = "row";
      cell.textContent = text;
      line.append(cell);
    });
    return line;
  }

  // The form.

  for (const place of document.querySelectorAll(".rlc-release")) {
    const constants = JSON.parse(place.dataset.constants);
    const form = place.querySelector("form"), said = place.querySelector(".rlc-release-said");
    const canvas = place.querySelector(".rlc-release-picture"), body = place.querySelector("tbody");
    const still = window.matchMedia("(prefers-reduced-motion: reduce)");
    let seed = 1, frame = 0;

    const settings = () => ({
      effect: Number(form.effect.value.split("@")[0]) / 100,
      since: Number(form.effect.value.split("@")[1]),
      share: constants.shares[Number(form.share.value)],
      every: Number(form.every.value),
      window: constants.windows[Number(form.window.value)],
      rule: form.rule.value,
      level: Number(form.alpha.value),
      limit: Number(form.limit.value) / 100,
      adjusted: form.adjusted.checked,
    });

    function label(input, text) {
      input.nextElementSibling.textContent = text;
      input.setAttribute("aria-valuetext", text);
    }

    function draw(now, found, shown) {
      canvas.replaceChildren(picture(constants, now, found, shown));
      place.dataset.shown = shown;
    }

    function play(now, found) {
      cancelAnimationFrame(frame);
      const last = found.days.length;
      if (still.matches) { draw(now, found, last); return; }
      let began = null;
      const step = (time) => {
        began ??= time;
        const shown = Math.min(1 + Math.floor((time - began) / 150), last);
        if (String(shown) !== place.dataset.shown) draw(now, found, shown);
        if (shown < last) { frame = requestAnimationFrame(step); } else { said.textContent = sentence(constants, now, found); }
      };
      said.textContent = "";
      place.dataset.shown = 0;
      frame = requestAnimationFrame(step);
    }

    function refresh(moving) {
      cancelAnimationFrame(frame);
      const now = settings(), found = release(constants, now, normals(seed), true);
      label(form.share, `${Math.round(100 * now.share)} %, ${armSize(constants.fleet, now.share)} of ${constants.fleet}`);
      label(form.every, now.every === 1 ? "day" : `${now.every} days`);
      label(form.window, span({ rule: "threshold", window: now.window }));
      label(form.limit, `${Math.round(100 * now.limit)} %`);
      const limited = now.rule === "threshold";
      form.limit.closest(".rlc-release-field").hidden = !limited;
      form.window.closest(".rlc-release-field").hidden = now.rule === "always";
      form.alpha.closest(".rlc-release-field").hidden = limited;
      form.adjusted.closest(".rlc-release-field").hidden = limited;
      const rows = [[now.effect, NAMES[form.effect.value]]];
      if (now.effect !== 0) rows.push([0, NAMES["0@0"]]);
      body.replaceChildren(...rows.map(([effect, name]) =>
        row(name, many(constants, { ...now, effect }, RELEASES, 7), effect <= 0)));
      if (moving) { play(now, found); return; }
      draw(now, found, found.days.length);
      said.textContent = sentence(constants, now, found);
    }

    form.addEventListener("submit", (event) => event.preventDefault());
    for (const kind of ["input", "change"]) form.addEventListener(kind, () => refresh(false));
    form.play.addEventListener("click", () => refresh(true));
    form.another.addEventListener("click", () => { seed += 1; refresh(false); });
    if (disagreement(constants) > 1e-9) {
      said.textContent = "This page's numbers are not those of the package: build it anew.";
      form.hidden = true;
    } else {
      refresh(false);
    }
  }
})();
