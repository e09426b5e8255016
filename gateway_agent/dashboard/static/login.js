// A token, typed or from the link's #token=..., for a cookie. The part after # is never sent and leaves the address at once.
const text = document.getElementById("login-text");

async function login(token) {
  text.textContent = "";
  try {
    const answer = await fetch("login", {
      method: "POST",
      headers: { "content-type": "application/json", "x-dt-request": "1" },
      body: JSON.stringify({ token }),
    });
    if (answer.ok) return location.reload();
    text.textContent = (await answer.json()).error;
  } catch {
    text.textContent = "the gateway does not answer";
  }
}

const linked = new URLSearchParams(location.hash.slice(1)).get("token");
if (linked) {
  history.replaceState(null, "", location.pathname);
  login(linked);
}
document.getElementById("login").addEventListener("submit", (event) => {
  event.preventDefault();
  login(document.getElementById("token").value.trim());
});
