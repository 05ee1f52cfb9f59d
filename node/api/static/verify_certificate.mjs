// Checks every signature of a certificate with the official SDK, by the signers' identity keys alone:
//   npm install @bsv/sdk && node verify_certificate.mjs certificate.json
import { ProtoWallet } from '@bsv/sdk'
import { readFileSync } from 'node:fs'

const bytes = hex => [...Buffer.from(hex, 'hex')]
const certificate = JSON.parse(readFileSync(process.argv[2], 'utf8'))
const anyone = new ProtoWallet('anyone')
for (const entry of [...certificate.signatures, ...certificate.evidence]) {
  const { valid } = await anyone.verifySignature({ // throws where a signature is wrong
    protocolID: entry.protocolID,
    keyID: entry.keyID,
    counterparty: entry.identityKey,
    data: bytes(entry.signed),
    signature: bytes(entry.signature),
  })
  console.log(valid, entry.step ?? 'certification', entry.identityKey)
}
