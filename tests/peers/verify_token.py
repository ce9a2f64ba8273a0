"""Verifies a token with PyJWT under the keys that are fetched from an address: prints its claims, or why it is refused.

usage: verify_token.py JWKS_URL AUDIENCE TOKEN
"""

import json
import sys

import jwt

url, audience, token = sys.argv[1:]
try:
    key = jwt.PyJWKClient(url).get_signing_key_from_jwt(token)
    wanted = ["exp", "iat", "aud", "jti", "cnf", "eat_profile", "submods"]
    print(json.dumps(jwt.decode(token, key, algorithms=["ES256"], audience=audience, options={"require": wanted})))
except jwt.PyJWTError as error:
    print("refused:", type(error).__name__)
