// Before the first paint: the theme that was chosen here, if one was; otherwise the system's.
(() => {
  const chosen = localStorage.getItem("dt-theme");
  if (chosen === "dark" || chosen === "light") document.documentElement.dataset.theme = chosen;
})();
