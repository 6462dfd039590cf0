(() => {
  "use strict";
  const root = document.documentElement;
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const isTouch = matchMedia("(pointer: coarse)").matches;
  const standIns = JSON.parse(document.getElementById("stand-ins").textContent);
  const printWidth = 660;

  function figureOf(plot) {
    const style = getComputedStyle(root);
    let text = document.getElementById(plot.id + "-data").textContent;
    for (const [colour, variable] of Object.entries(standIns)) {
      text = text.replaceAll(colour, style.getPropertyValue(variable).trim());
    }
    return JSON.parse(text);
  }

  function draw() {
    const isPrinting = root.classList.contains("printing");
    for (const plot of document.querySelectorAll(".plot")) {
      const figure = figureOf(plot);
      if (isPrinting) {
        Object.assign(figure.layout, { autosize: false, width: printWidth });
      }
      if (isTouch) {
        figure.layout.dragmode = false; // so that a finger scrolls the page
      }
      Plotly.react(plot, figure.data, figure.layout, {
        responsive: true,
        displaylogo: false,
        displayModeBar: isTouch ? false : "hover",
        modeBarButtonsToRemove: ["select2d", "lasso2d", "autoScale2d"],
      });
    }
  }

  draw();
  dark.addEventListener("change", draw);
  addEventListener("beforeprint", () => { root.classList.add("printing"); draw(); });
  addEventListener("afterprint", () => { root.classList.remove("printing"); draw(); });
})();
