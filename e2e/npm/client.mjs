// Signs and verifies with npm's sigstore, from files instead of a TUF mirror.
//
//   node client.mjs sign FILE BUNDLE TOKEN-FILE CA-URL TSA-URL
//   node client.mjs verify FILE BUNDLE TRUSTED-ROOT EMAIL ISSUER
import { readFile, writeFile } from 'node:fs/promises';
import { bundleFromJSON } from '@sigstore/bundle';
import { TrustedRoot } from '@sigstore/protobuf-specs';
import { Verifier, toSignedEntity, toTrustMaterial } from '@sigstore/verify';
import { sign } from 'sigstore';

const json = async (file) => JSON.parse(await readFile(file, 'utf8'));

const commands = {
  async sign(file, bundle, tokenFile, fulcioURL, tsaServerURL) {
    const identityToken = await readFile(tokenFile, 'utf8');
    const signed = await sign(await readFile(file), { fulcioURL, tsaServerURL, identityToken, tlogUpload: false });
    await writeFile(bundle, JSON.stringify(signed));
  },

  // sigstore.verify() takes its trust from a TUF mirror; this is what it does
  // once it has the trusted root. There is no Rekor, so no entry is asked for.
  async verify(file, bundle, trustedRoot, email, issuer) {
    const trust = toTrustMaterial(TrustedRoot.fromJSON(await json(trustedRoot)));
    const entity = toSignedEntity(bundleFromJSON(await json(bundle)), await readFile(file));
    const verifier = new Verifier(trust, { tlogThreshold: 0, ctlogThreshold: 1, timestampThreshold: 1 });
    verifier.verify(entity, { subjectAlternativeName: email, extensions: { issuer } });
  },
};

const [command, ...args] = process.argv.slice(2);
try {
  await commands[command](...args);
} catch (e) {
  const cause = e.cause ? `: ${e.cause.message ?? e.cause}` : '';
  console.error(`${e.code ?? e.name}: ${e.message}${cause}`);
  process.exit(1);
}
