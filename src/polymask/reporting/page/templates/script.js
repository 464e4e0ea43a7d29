// The gallery's filter, and folded parts that a printed page must show.
(() => {
  const form = document.querySelector(".filter");
  if (form) {
    const ofClass = form.querySelector("#filter-class");
    const ofKind = form.querySelector("#filter-kind");
    const count = form.querySelector("#filter-count");
    const cases = [...document.querySelectorAll(".case")];
    const show = () => {
      const chosen = ofClass ? ofClass.value : "all";
      let number = 0;
      for (const each of cases) {
        const word = each.dataset.kinds.split(" ").find(word => word.startsWith(chosen + ":"));
        const kind = word ? word.slice(chosen.length + 1) : "";
        each.hidden = !kind || (ofKind.value !== "" && ofKind.value !== kind);
        if (kind) each.querySelector(".badge").textContent = kind;
        number += !each.hidden;
      }
      count.textContent = number === 1 ? "1 case" : number + " cases";
    };
    form.hidden = false;
    form.addEventListener("submit", event => event.preventDefault());
    form.addEventListener("change", show);
    show();
  }
  const folded = [...document.querySelectorAll("details")];
  let opened = [];
  addEventListener("beforeprint", () => {
    opened = folded.filter(each => !each.open);
    opened.forEach(each => { each.open = true; });
  });
  addEventListener("afterprint", () => opened.forEach(each => { each.open = false; }));
})();
