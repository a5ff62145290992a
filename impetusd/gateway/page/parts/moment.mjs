// An instant in a field of a form, in local time; in the address it is Unix seconds.
const two = (number) => String(number).padStart(2, "0");

export const moment = {
  show(at) {
    if (!at) return "";
    const date = new Date(at * 1000);
    return `${date.getFullYear()}-${two(date.getMonth() + 1)}-${two(date.getDate())}T${two(date.getHours())}:${two(date.getMinutes())}:${two(date.getSeconds())}`;
  },
  read: (text) => (text ? Math.floor(new Date(text).getTime() / 1000) : ""),
};
