import { render } from "preact";
import { App } from "./app";
import { follow } from "./live";
import { theme } from "./theme";
import "./style.css";

theme();
follow();
render(<App />, document.getElementById("app")!);
