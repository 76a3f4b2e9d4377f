// A person at a browser: opens the page that a client asked for, logs in at
// Keycloak, enters the second factor and grants access when asked, and stops
// where the provider sends the browser back to the client.
//
//   node browser.mjs < '{"url": …, "user": …, "password": …, "otp": …, …}'
//
// With a file of cookies, the person is still logged in from the last time.
// Every step goes to standard output. It fails when Keycloak shows an error or
// the end is not reached in time.
import {createHash, X509Certificate} from 'node:crypto';
import {existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync} from 'node:fs';
import {tmpdir} from 'node:os';
import {join} from 'node:path';
import {chromium} from 'playwright-core';

const task = JSON.parse(readFileSync(0, 'utf8'));
const deadline = Date.now() + 40_000;
const left = () => Math.max(1, deadline - Date.now());

// Trusts one key, and not any certificate, as a browser with the
// organization's root would.
const key = new X509Certificate(readFileSync(task.certificate)).publicKey.export({type: 'spki', format: 'der'});
const pin = createHash('sha256').update(key).digest('base64');

const profile = mkdtempSync(join(tmpdir(), 'mayfly-e2e-browser-'));
const context = await chromium.launchPersistentContext(profile, {
  executablePath: task.chromium,
  headless: true,
  chromiumSandbox: process.getuid() !== 0, // it refuses to start for root
  timeout: left(),
  args: [
    `--ignore-certificate-errors-spki-list=${pin}`,
    '--disable-gpu', '--disable-quic', '--no-first-run', '--disable-background-networking',
    '--disable-component-update', '--disable-sync',
  ],
});
try {
  const page = context.pages()[0] ?? await context.newPage();
  page.setDefaultTimeout(left());
  if (task.cookies && existsSync(task.cookies)) {
    await context.addCookies(JSON.parse(readFileSync(task.cookies, 'utf8')));
  }
  await page.goto(task.url);
  await loginAt(page);
  if (task.cookies) writeFileSync(task.cookies, JSON.stringify(await context.cookies()));
} finally {
  await context.close();
  rmSync(profile, {recursive: true, force: true});
}

// loginAt answers one page after the other, as they come.
async function loginAt(page) {
  for (let step = 0; step < 8; step++) {
    const end = page.waitForURL((url) => url.href.startsWith(task.end), {timeout: left()}).then(() => 'end');
    const form = page.locator('#username:visible, #password:visible, #otp:visible, [name=accept]:visible, #kc-error-message:visible').first()
      .waitFor({timeout: left()}).then(() => 'form');
    const what = await Promise.race([end, form]).catch(async (err) => {
      throw new Error(`lost at ${page.url()}: ${await text(page)}: ${err.message}`);
    });
    end.catch(() => {});
    form.catch(() => {});
    if (what === 'end') {
      console.log(`end: ${new URL(page.url()).pathname}: ${await text(page)}`);
      return;
    }
    if (await page.locator('#kc-error-message:visible, [id^=input-error]:not([id*=container]):visible').count() > 0) {
      throw new Error(`Keycloak says: ${await text(page)}`);
    }
    await answer(page);
  }
  throw new Error(`still asked after eight pages: ${await text(page)}`);
}

async function answer(page) {
  if (await page.locator('#password:visible').count() > 0) {
    console.log('page: user name and password');
    if (await page.locator('#username:visible').count() > 0) await page.fill('#username', task.user);
    await page.fill('#password', task.password);
    await submit(page, '#kc-login');
  } else if (await page.locator('#otp:visible').count() > 0) {
    if (!task.otp) throw new Error('asked for a second factor, and has none');
    console.log('page: second factor');
    await page.fill('#otp', task.otp);
    await submit(page, '#kc-login');
  } else {
    console.log('page: grant access');
    await submit(page, '[name=accept]');
  }
}

// submit waits until the next page has come.
async function submit(page, selector) {
  await Promise.all([
    page.waitForNavigation({waitUntil: 'domcontentloaded', timeout: left()}),
    page.click(selector),
  ]);
}

async function text(page) {
  const shown = await page.locator('body').innerText({timeout: 2_000}).catch(() => '(nothing)');
  return shown.replace(/\s+/g, ' ').slice(0, 400);
}
