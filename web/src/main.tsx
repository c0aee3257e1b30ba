/** Starts the page; a tab that was playing goes on with its session, an address with a story opens it. */
import { StrictMode } from "react";
import { createRoot } from "react-dom/client";
import { isStatic, prepareSite } from "./local/site";
import { localSockets } from "./local/socket";
import { History } from "./play/history";
import { Player } from "./play/player";
import { storyHere } from "./story/address";
import "./styles/tokens.css";
import "./styles/base.css";
import "./styles/lobby.css";
import "./styles/play.css";
import "./styles/pad.css";
import "./styles/story.css";
import { App, keptKey } from "./ui/App";

const root = document.getElementById("root");
if (!root) throw new Error("index.html has no #root");
const local = isStatic();
if (local) await prepareSite();
const player = new Player(new History(sessionStorage), local ? localSockets() : undefined);
player.useKey(keptKey());
if (storyHere() === null) player.comeBack();
createRoot(root).render(
  <StrictMode>
    <App player={player} />
  </StrictMode>,
);
