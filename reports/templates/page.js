// Sliders: each points into the table below it, which is all there without JavaScript.
for (const box of document.querySelectorAll('.slider')) {
  const rows = [...box.querySelectorAll('tbody tr')];
  const range = document.createElement('input');
  range.type = 'range';
  range.min = '0';
  range.max = String(rows.length - 1);
  range.value = range.max;
  range.setAttribute('aria-label', box.dataset.label);
  const shown = document.createElement('output');
  const show = () => {
    const at = Number(range.value);
    rows.forEach((row, index) => row.classList.toggle('here', index === at));
    const [name, , , ratio] = [...rows[at].children].map(cell => cell.textContent);
    shown.textContent = `${ratio}  at ${name}`;
    range.setAttribute('aria-valuetext', shown.textContent);
  };
  range.addEventListener('input', show);
  box.querySelector('.control').append(shown, range);
  show();
}
