// Style sheets that come with what needs them.
export function style(name) {
  const href = new URL(name, import.meta.url).href;
  if ([...document.styleSheets].some((each) => each.href === href)) return undefined;
  const link = Object.assign(document.createElement("link"), { rel: "stylesheet", href });
  return new Promise((done, fail) => {
    link.onload = done;
    link.onerror = () => fail(new Error(name));
    document.head.append(link);
  });
}
