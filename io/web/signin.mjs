// Trades the token for a cookie that scripts cannot read, then shows the page that was asked for.

const form = document.getElementById("signin");
const answer = document.getElementById("answer");
const token = document.getElementById("token");

/** Once more the address that led here; the cookie goes with it now. */
const enter = () => location.replace(location.href);

/** The token in a header: it stands in no address, so in no log and no history. */
async function signIn() {
  answer.textContent = "Signing in";
  try {
    const headers = { Authorization: `Bearer ${token.value.trim()}` };
    const response = await fetch("/api/signin", { method: "POST", headers });
    if (response.ok) return enter();
    answer.textContent = response.status === 401 ? "That is not the token" : `The server answered ${response.status}`;
  } catch {
    answer.textContent = "The server does not answer, or the token has a character that no token has";
  }
  token.select();
}

form.onsubmit = (event) => {
  event.preventDefault();
  signIn();
};

// A link on another site leads here without the cookie, even if there is one: asked from here, it goes along.
if ((await fetch("/info").catch(() => null))?.ok) enter();
