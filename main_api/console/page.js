// Shows whether the pair is ready, and asks again every five seconds while the page is looked at.
"use strict";

const EVERY_MS = 5000;

async function ask() {
  try {
    const answer = await fetch("/api/health/ready", { cache: "no-store" });
    return await answer.json();
  } catch {
    return { status: "not ready", error: "The gateway does not answer", versions: {} };
  }
}

function show(facts) {
  const ready = facts.status === "ready";
  document.querySelector(".status").dataset.state = ready ? "ready" : "not-ready";
  document.querySelector("#state").textContent = ready ? "Ready" : "Not ready";
  document.querySelector("#reason").textContent = ready
    ? "The gateway reaches the auxiliary service."
    : facts.error || "Something is wrong";
  document.querySelector("#versions").replaceChildren(
    ...Object.entries(facts.versions || {}).flatMap(([service, version]) => {
      const name = document.createElement("dt");
      const value = document.createElement("dd");
      name.textContent = service;
      value.textContent = version;
      return [name, value];
    }),
  );
}

async function refresh() {
  if (!document.hidden) show(await ask());
}

refresh();
setInterval(refresh, EVERY_MS);
document.addEventListener("visibilitychange", refresh);
