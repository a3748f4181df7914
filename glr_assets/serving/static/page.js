"use strict";
// What the form does by itself, without leaving the page: choosing, dropping or pasting a photograph asks at once.
(() => {
  const form = document.getElementById("ask");
  const drop = document.getElementById("drop");
  const progress = document.getElementById("progress");
  const place = document.getElementById("place");
  const mostBytes = Number(form.dataset.megabytes) * 2 ** 20;
  let asking = null;

  document.documentElement.classList.add("scripted");

  const say = (text, busy) => {
    progress.textContent = text;
    progress.classList.toggle("busy", Boolean(busy));
  };

  const problem = (title, reason) => {
    const section = document.createElement("section");
    section.id = "answer";
    section.tabIndex = -1;
    const box = document.createElement("div");
    box.className = "verdict problem";
    box.setAttribute("role", "alert");
    const heading = document.createElement("h2");
    heading.textContent = title;
    const told = document.createElement("p");
    told.textContent = reason;
    box.append(heading, told);
    section.append(box);
    return section;
  };

  const show = (node) => {
    place.replaceChildren(node);
    place.firstElementChild.focus();
  };

  const ask = async (file) => {
    if (asking) asking.abort();
    const mine = new AbortController();
    asking = mine;
    if (file.size > mostBytes) {
      say("");
      show(problem("This cannot be looked at", `It has ${Math.ceil(file.size / 2 ** 20)} MB, at most ${form.dataset.megabytes} are taken.`));
      return;
    }
    say("Looking at it…", true);
    const body = new FormData();
    body.append("image", file, file.name || "photograph");
    try {
      const response = await fetch("/", {
        method: "POST", body, signal: mine.signal, headers: { "X-Requested-With": "fetch" },
      });
      const text = await response.text();
      if (!(response.headers.get("content-type") || "").startsWith("text/html")) throw new Error(response.statusText);
      const parsed = new DOMParser().parseFromString(text, "text/html").getElementById("answer");
      say("");
      show(document.adoptNode(parsed));
    } catch (error) {
      if (error.name === "AbortError") return;
      say("");
      show(problem("No answer", "The service could not be reached. Try again in a moment."));
    }
  };

  const fromList = (files) => {
    const file = files && files[0];
    if (file) ask(file);
    return Boolean(file);
  };

  for (const input of form.querySelectorAll("input[type=file]")) {
    input.addEventListener("change", () => {
      fromList(input.files);
      input.value = "";
    });
  }
  form.addEventListener("submit", (event) => {
    event.preventDefault();
    document.getElementById("choose").click();
  });
  document.addEventListener("dragover", (event) => {
    event.preventDefault();
    drop.classList.add("over");
  });
  document.addEventListener("dragleave", (event) => {
    if (!event.relatedTarget) drop.classList.remove("over");
  });
  document.addEventListener("drop", (event) => {
    event.preventDefault();
    drop.classList.remove("over");
    if (!fromList(event.dataTransfer.files)) say("That was no photograph.");
  });
  document.addEventListener("paste", (event) => {
    if (fromList(event.clipboardData.files)) event.preventDefault();
  });
})();
